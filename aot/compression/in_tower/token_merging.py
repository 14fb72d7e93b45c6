"""Tokens that merge inside a vision tower: their states, sizes and patches."""

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
    """B sequences of T tokens, each sequence merged from S patches.

    Attributes:
        states: [B, T, D].
        sizes: [B, T], the number of patches in each token.
        owner: [B, S] int64, the token that each patch is part of.
        anchor: [B, T] int64, the patch into which the others of a token were merged.
    """

    states: Tensor
    sizes: Tensor
    owner: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, states: Tensor) -> MergingTokens:
        """Return every patch of [B, S, D] as a token of its own."""
        sizes = torch.ones(states.shape[:2], dtype=working_dtype(states), device=states.device)
        own = torch.arange(states.shape[1], device=states.device).repeat(len(states), 1)
        return cls(states, sizes, own, own)

    @property
    def count(self) -> int:
        """Return T."""
        return self.states.shape[1]

    @property
    def are_patches(self) -> bool:
        """Return whether nothing has merged yet."""
        return self.count == self.owner.shape[1]

    def to(self, device: torch.device) -> MergingTokens:
        """Return the same tokens on a device."""
        return MergingTokens(*(each.to(device) for each in (self.states, self.sizes, self.owner, self.anchor)))

    def with_states(self, states: Tensor) -> MergingTokens:
        """Return the same tokens with the states after a layer."""
        return replace(self, states=states)

    def joined(self, sequences: int) -> MergingTokens:
        """Return every `sequences` consecutive sequences as one; no token merges."""
        tokens, patches = self.count, self.owner.shape[1]
        # Tokens and patches of a joined sequence are numbered through.
        index = torch.arange(sequences, device=self.owner.device)[:, None]
        return MergingTokens(
            self.states.reshape(-1, sequences * tokens, self.states.shape[2]),
            self.sizes.reshape(-1, sequences * tokens),
            (self.owner.view(-1, sequences, patches) + index * tokens).flatten(1),
            (self.anchor.view(-1, sequences, tokens) + index * patches).flatten(1),
        )

    def merge(self, metric: Tensor, merges: int, *, by_similarity: bool = False) -> MergingTokens:
        """Merge `merges` tokens of every sequence into similar ones, as size-weighted means.

        One soft matching (ToMe, arXiv 2210.09461) merges at most half of the tokens; for more, the
        rest is matched again. Afterwards the unmerged tokens at even indices come first, then those
        at odd ones. The order decides which tokens can meet in the next matching.

        Args:
            metric: [B, T, d], by which similarity is measured.
            merges: how many tokens disappear from every sequence.
            by_similarity: whether unmerged tokens at even indices are in descending order of
                similarity instead of index order. ToMe sorts them by index only if there is a class
                token.

        Raises:
            ValueError: If `merges` is not in 0 .. T - 1.
        """
        if not 0 <= merges < max(self.count, 1):
            raise ValueError(f"merges: expected 0 to {self.count - 1} of {self.count} tokens, got {merges}")
        # Each step merges at most half of the tokens that are left.
        tokens = self
        while merges:
            step = min(merges, tokens.count // 2)
            merges -= step
            matching = match_pairs(metric, step)
            folding = _Folding.of(matching.target, tokens.sizes, step, matching.ranked if by_similarity else None)
            tokens = tokens._folded(folding)
            # The next matching sees the merged metric.
            if merges:
                metric = folding.means(metric)
        return tokens

    def merge_into(self, target: Tensor, merges: int) -> MergingTokens:
        """Merge every token into that at `target` [B, T]; `merges` of these are other tokens.

        Unmerged tokens at even indices come first, then those at odd ones, both in index order.
        """
        return self._folded(_Folding.of(target, self.sizes, merges))

    def _folded(self, folding: _Folding) -> MergingTokens:
        """Return the tokens after these merges."""
        return MergingTokens(
            states=folding.means(self.states),
            sizes=folding.sizes,
            # Patches follow their tokens; a merged token keeps the anchor of the one it is merged
            # into.
            owner=folding.new_index.gather(1, self.owner),
            anchor=self.anchor.gather(1, folding.kept),
        )


@dataclass(frozen=True, slots=True)
class _Folding:
    """One step of merging, as indices and sizes.

    Attributes:
        kept: [B, T'], the tokens that stay, in their new order.
        merged: [B, r], the tokens that are merged into others.
        new_index: [B, T], the new index of each token's content.
        weights: [B, T], the sizes before.
        sizes: [B, T'], the sizes after.
    """

    kept: Tensor
    merged: Tensor
    new_index: Tensor
    weights: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, target: Tensor, sizes: Tensor, merges: int, ranked: Tensor | None = None) -> _Folding:
        """Return the step that merges tokens into `target` [B, T], without a wait for the device.

        Args:
            target: see `Matching`.
            sizes: [B, T].
            merges: how many tokens of each sequence are merged. It is known in advance, so no shape
                depends on the device.
            ranked: the order of unmerged tokens at even indices; None is index order.
        """
        count = target.shape[1]
        index = torch.arange(count, device=target.device).expand_as(target)
        # 1. Sort: unmerged tokens at even indices, unmerged at odd ones, merged ones.
        rank = index if ranked is None else index.scatter(1, ranked, index[:, : ranked.shape[1]])
        group = torch.where(target == index, index % 2, 2)  # unmerged even, odd, merged into another
        order = (group * count + rank).argsort(dim=1)
        kept, merged = order[:, : count - merges], order[:, count - merges :]
        # 2. Where the content of every token goes, and the new sizes.
        new_index = torch.empty_like(order).scatter_(1, order, index).gather(1, target)
        total = sizes.gather(1, kept).scatter_add_(1, new_index.gather(1, merged), sizes.gather(1, merged))
        return cls(kept, merged, new_index, sizes, total)

    def means(self, values: Tensor) -> Tensor:
        """Return size-weighted means [B, T', D] of values [B, T, D], in their dtype."""
        # Sums weighted by the old sizes, divided by the new ones.
        kept, merged = (
            take_rows(values, index) * self.weights.gather(1, index)[..., None] for index in (self.kept, self.merged)
        )
        into = self.new_index.gather(1, self.merged)[..., None].expand_as(merged)
        return (kept.scatter_add_(1, into, merged) / self.sizes[..., None]).to(values.dtype)
