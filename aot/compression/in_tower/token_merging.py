"""Merge tokens inside a vision tower, and record their sizes and patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aot.compression.ops.products import take_rows
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.soft_matching import match_pairs

__all__ = ["MergingTokens"]


@dataclass(frozen=True, slots=True)
class MergingTokens:
    """Hold B sequences of T tokens; each sequence was merged from S patches.

    Attributes:
        states: [B, T, D], the hidden states.
        sizes: [B, T], the number of patches in each token.
        owner: int64 [B, S], the index of the token that contains each patch.
        anchor: int64 [B, T], the index of each token's anchor: the patch into which the token's
            other patches were merged.
    """

    states: Tensor
    sizes: Tensor
    owner: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, states: Tensor) -> MergingTokens:
        """Return tokens of one patch each, for the patches `states` [B, S, D]."""
        sizes = torch.ones(states.shape[:2], dtype=working_dtype(states), device=states.device)
        own = torch.arange(states.shape[1], device=states.device).repeat(len(states), 1)
        return cls(states, sizes, own, own)

    @property
    def count(self) -> int:
        """Return T, the number of tokens per sequence."""
        return self.states.shape[1]

    @property
    def are_patches(self) -> bool:
        """Return whether no tokens were merged yet."""
        return self.count == self.owner.shape[1]

    def to(self, device: torch.device) -> MergingTokens:
        """Return the same tokens on `device`."""
        return MergingTokens(*(each.to(device) for each in (self.states, self.sizes, self.owner, self.anchor)))

    def with_states(self, states: Tensor) -> MergingTokens:
        """Return the same tokens with new hidden `states`."""
        return replace(self, states=states)

    def joined(self, sequences: int) -> MergingTokens:
        """Join each group of `sequences` consecutive sequences into one, without merging tokens."""
        tokens, patches = self.count, self.owner.shape[1]
        # In a joined sequence, the indices of tokens and patches go on from part to part.
        index = torch.arange(sequences, device=self.owner.device)[:, None]
        return MergingTokens(
            self.states.reshape(-1, sequences * tokens, self.states.shape[2]),
            self.sizes.reshape(-1, sequences * tokens),
            (self.owner.view(-1, sequences, patches) + index * tokens).flatten(1),
            (self.anchor.view(-1, sequences, tokens) + index * patches).flatten(1),
        )

    def merge(self, metric: Tensor, merges: int, *, by_similarity: bool = False) -> MergingTokens:
        """Merge `merges` tokens of every sequence into similar tokens, by size-weighted means.

        One soft matching (ToMe, arXiv 2210.09461) merges at most half of the tokens; for more
        merges, the remaining tokens are matched again. In the result, unmerged tokens with even
        indices come first, then the tokens with odd indices. This order decides which tokens can be
        paired in the next matching.

        Args:
            metric: [B, T, d], vectors whose cosine similarity decides the matching.
            merges: the number of tokens to remove from every sequence.
            by_similarity: sort unmerged tokens with even indices by descending similarity instead
                of by index. ToMe does this if there is no class token.

        Raises:
            ValueError: If `merges` is not in 0 .. T - 1.
        """
        if not 0 <= merges < max(self.count, 1):
            raise ValueError(f"merges: expected 0 to {self.count - 1} of {self.count} tokens, got {merges}")
        # Each step merges at most half of the remaining tokens.
        tokens = self
        while merges:
            step = min(merges, tokens.count // 2)
            merges -= step
            matching = match_pairs(metric, step)
            folding = _Folding.of(matching.target, tokens.sizes, step, matching.ranked if by_similarity else None)
            tokens = tokens._folded(folding)
            # The next matching uses the merged metric.
            if merges:
                metric = folding.means(metric)
        return tokens

    def merge_into(self, target: Tensor, merges: int) -> MergingTokens:
        """Merge token i of each sequence into token target[i]; token i stays if target[i] is i.

        `target` is [B, T]; `merges` is the number of tokens per sequence that do not stay. In the
        result, tokens with even indices come first, then odd indices, both in index order.
        """
        return self._folded(_Folding.of(target, self.sizes, merges))

    def _folded(self, folding: _Folding) -> MergingTokens:
        """Return the tokens after the step `folding`."""
        return MergingTokens(
            states=folding.means(self.states),
            sizes=folding.sizes,
            # Patches follow their tokens; the anchor of the target token is kept.
            owner=folding.new_index.gather(1, self.owner),
            anchor=self.anchor.gather(1, folding.kept),
        )


@dataclass(frozen=True, slots=True)
class _Folding:
    """Hold one step of merging from T to T' tokens, as indices and sizes.

    Attributes:
        kept: [B, T'], the indices of the tokens that stay, in their new order.
        merged: [B, T - T'], the indices of the tokens that are merged into other tokens.
        new_index: [B, T], for each token, the new index of the token that contains it.
        weights: [B, T], the sizes before the step.
        sizes: [B, T'], the sizes after the step.
    """

    kept: Tensor
    merged: Tensor
    new_index: Tensor
    weights: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, target: Tensor, sizes: Tensor, merges: int, ranked: Tensor | None = None) -> _Folding:
        """Return the step that merges each token into its target, without waiting for the device.

        Args:
            target: [B, T], see `Matching`.
            sizes: [B, T], the number of patches in each token.
            merges: the number of merged tokens per sequence. Because it is known on the host, the
                shapes of all results are known without reading `target`.
            ranked: [B, ceil(T / 2)], the order in which tokens with even indices are kept; None for
                ascending order.
        """
        count = target.shape[1]
        index = torch.arange(count, device=target.device).expand_as(target)
        # 1. Sort: first unmerged even indices, then unmerged odd indices, then merged tokens.
        rank = index if ranked is None else index.scatter(1, ranked, index[:, : ranked.shape[1]])
        group = torch.where(target == index, index % 2, 2)  # unmerged even, odd, merged into another
        order = (group * count + rank).argsort(dim=1)
        kept, merged = order[:, : count - merges], order[:, count - merges :]
        # 2. Find the new index of each token's target, and the new sizes.
        new_index = torch.empty_like(order).scatter_(1, order, index).gather(1, target)
        total = sizes.gather(1, kept).scatter_add_(1, new_index.gather(1, merged), sizes.gather(1, merged))
        return cls(kept, merged, new_index, sizes, total)

    def means(self, values: Tensor) -> Tensor:
        """Return the size-weighted means [B, T', D] of values [B, T, D], in the dtype of values."""
        # Sums weighted by the old sizes, divided by the new sizes.
        kept, merged = (
            take_rows(values, index) * self.weights.gather(1, index)[..., None] for index in (self.kept, self.merged)
        )
        into = self.new_index.gather(1, self.merged)[..., None].expand_as(merged)
        return (kept.scatter_add_(1, into, merged) / self.sizes[..., None]).to(values.dtype)
