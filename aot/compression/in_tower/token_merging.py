"""Tokens that merge on their way through an encoder: what they hold, how many patches, and which."""

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
    """B sequences of T tokens that S patches have become.

    states: [B, T, D]. sizes: [B, T], how many patches each token stands for. owner: [B, S] int64, the token each patch
    is part of. anchor: [B, T] int64, the patch that a token's others were merged into.
    """

    states: Tensor
    sizes: Tensor
    owner: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, states: Tensor) -> MergingTokens:
        """Every patch [B, S, D] a token of its own."""
        sizes = torch.ones(states.shape[:2], dtype=working_dtype(states), device=states.device)
        own = torch.arange(states.shape[1], device=states.device).repeat(len(states), 1)
        return cls(states, sizes, own, own)

    @property
    def count(self) -> int:
        """T."""
        return self.states.shape[1]

    @property
    def are_patches(self) -> bool:
        """Whether nothing has merged yet."""
        return self.count == self.owner.shape[1]

    def to(self, device: torch.device) -> MergingTokens:
        """The same tokens on a device."""
        return MergingTokens(*(each.to(device) for each in (self.states, self.sizes, self.owner, self.anchor)))

    def with_states(self, states: Tensor) -> MergingTokens:
        """The same tokens after a layer."""
        return replace(self, states=states)

    def joined(self, sequences: int) -> MergingTokens:
        """So many consecutive sequences as one; nothing merges by that."""
        tokens, patches = self.count, self.owner.shape[1]
        place = torch.arange(sequences, device=self.owner.device)[:, None]
        return MergingTokens(
            self.states.reshape(-1, sequences * tokens, self.states.shape[2]),
            self.sizes.reshape(-1, sequences * tokens),
            (self.owner.view(-1, sequences, patches) + place * tokens).flatten(1),
            (self.anchor.view(-1, sequences, tokens) + place * patches).flatten(1),
        )

    def merge(self, metric: Tensor, merges: int, *, by_similarity: bool = False) -> MergingTokens:
        """Merge `merges` tokens of every sequence into others, the most similar by metric [B, T, d], as size-weighted
        means.

        One soft matching (ToMe, arXiv 2210.09461) merges at most half of the tokens; for more, what it leaves is
        matched again. Afterwards the unmerged tokens of even places come first, then those of odd ones. The former are
        in the order of their index or, `by_similarity`, from the most to the least similar: ToMe sorts them by index
        only where there is a class token. The order decides which tokens can meet in the next matching.

        Raises:
            ValueError: merges is not in 0 .. T - 1.
        """
        if not 0 <= merges < max(self.count, 1):
            raise ValueError(f"merges: expected 0 to {self.count - 1} of {self.count} tokens, got {merges}")
        tokens = self
        while merges:
            step = min(merges, tokens.count // 2)
            merges -= step
            matching = match_pairs(metric, step)
            folding = _Folding.of(matching.target, tokens.sizes, step, matching.ranked if by_similarity else None)
            tokens = tokens._folded(folding)
            if merges:
                metric = folding.means(metric)
        return tokens

    def merge_into(self, target: Tensor, merges: int) -> MergingTokens:
        """Merge every token into the one at target [B, T], `merges` of them not their own; the order is by index."""
        return self._folded(_Folding.of(target, self.sizes, merges))

    def _folded(self, folding: _Folding) -> MergingTokens:
        return MergingTokens(
            states=folding.means(self.states),
            sizes=folding.sizes,
            owner=folding.place.gather(1, self.owner),
            anchor=self.anchor.gather(1, folding.kept),
        )


@dataclass(frozen=True, slots=True)
class _Folding:
    """kept [B, T'] and gone [B, r]: indices of tokens in their new order; place [B, T]: where each one's content goes.
    weights: the sizes before, [B, T]; sizes: after, [B, T'].
    """

    kept: Tensor
    gone: Tensor
    place: Tensor
    weights: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, target: Tensor, sizes: Tensor, merges: int, ranked: Tensor | None = None) -> _Folding:
        """From the target [B, T] of so many merges, as `Matching` has it; the host does not wait for the device.

        ranked: the order in which unmerged tokens of even places go on; by index if it is None.
        """
        count = target.shape[1]
        index = torch.arange(count, device=target.device).expand_as(target)
        rank = index if ranked is None else index.scatter(1, ranked, index[:, : ranked.shape[1]])
        group = torch.where(target == index, index % 2, 2)  # unmerged even, odd, merged into another
        order = (group * count + rank).argsort(dim=1)
        kept, gone = order[:, : count - merges], order[:, count - merges :]
        place = torch.empty_like(order).scatter_(1, order, index).gather(1, target)
        total = sizes.gather(1, kept).scatter_add_(1, place.gather(1, gone), sizes.gather(1, gone))
        return cls(kept, gone, place, sizes, total)

    def means(self, values: Tensor) -> Tensor:
        """Size-weighted means [B, T', D] of values [B, T, D], in their dtype."""
        kept, gone = (
            take_rows(values, index) * self.weights.gather(1, index)[..., None] for index in (self.kept, self.gone)
        )
        into = self.place.gather(1, self.gone)[..., None].expand_as(gone)
        return (kept.scatter_add_(1, into, gone) / self.sizes[..., None]).to(values.dtype)
