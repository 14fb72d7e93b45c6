"""What merged tokens are made of. For those who ask: on the CPU, where sums repeat, and never part of a compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from aot.types import Provenance

__all__ = ["Shares", "of_patches"]


@dataclass(frozen=True, slots=True)
class Shares:
    """`count` tokens as weighted means of places: token `token` [E] holds `place` [E] with `weight` [E], positive.

    A token's weights sum to 1, whatever factor was on its sum. Pairs of a token and a place may repeat.
    """

    count: int
    token: Tensor
    place: Tensor
    weight: Tensor

    @classmethod
    def of(cls, place: Tensor) -> Shares:
        """Each of the places int64 [...] a token of its own, in raster order."""
        place = place.flatten().cpu()
        return cls(len(place), torch.arange(len(place)), place, torch.ones(len(place), dtype=torch.float64))

    @classmethod
    def of_frames(cls, weights: Tensor, first: int) -> Shares:
        """Tokens of frames in a row, each with its weights of its own frame's n places [f, k, n]; `first` is the first
        frame's number.
        """
        weights = weights.cpu().double()
        frame, row, cell = weights.nonzero(as_tuple=True)
        token, place = frame * weights.shape[1] + row, (first + frame) * weights.shape[2] + cell
        return _normalised(weights.shape[0] * weights.shape[1], token, place, weights[frame, row, cell])

    @classmethod
    def joined(cls, parts: Sequence[Shares]) -> Shares:
        """The tokens of all parts, numbered through."""
        firsts = [0, *accumulate(part.count for part in parts)]
        return cls(
            firsts[-1],
            torch.cat([part.token + first for part, first in zip(parts, firsts, strict=False)]),
            torch.cat([part.place for part in parts]),
            torch.cat([part.weight for part in parts]),
        )

    def merged(self, group: Tensor, weight: Tensor | None = None) -> Shares:
        """Means of the tokens with the same number in group, by `weight` if given (an element of both for each token);
        a token of a negative number is in none.
        """
        group = group.flatten().cpu()
        own = self.weight if weight is None else self.weight * weight.flatten().cpu().double()[self.token]
        token = group[self.token]
        held = token >= 0
        return _normalised(int(group.max()) + 1 if len(group) else 0, token[held], self.place[held], own[held])

    def blended(self, others: Shares, own: Tensor | float) -> Shares:
        """own * self + (1 - own) * others, own [count]; only itself where the others have no token of that number."""
        is_blend = torch.zeros(self.count, dtype=torch.bool).index_fill_(0, others.token, True)
        own = torch.where(is_blend, torch.as_tensor(own).cpu().double(), 1.0)
        return _normalised(
            self.count,
            torch.cat([self.token, others.token]),
            torch.cat([self.place, others.place]),
            torch.cat([self.weight * own[self.token], others.weight * (1 - own)[others.token]]),
        )

    def chosen(self, order: Tensor) -> Shares:
        """The different tokens int64 [K], in this order."""
        rank = torch.full((self.count,), -1)
        rank[order.cpu()] = torch.arange(len(order))
        return self.merged(rank)

    def provenance(self) -> Provenance:
        """By token, then by place, each pair once."""
        places = int(self.place.max()) + 1
        pairs, pair = (self.token * places + self.place).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        share = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, pair, self.weight)
        return Provenance(pairs // places, pairs % places, share.float())


def of_patches(cells: Tensor, pooled: int, labels: Tensor, order: Tensor) -> Provenance:
    """Of means of the patches with the same number in labels [F * N], in the order [K], by the pooled tokens that the
    patches belong to, cells [F, N] of 0 .. pooled - 1 in all F frames.
    """
    cells = cells.cpu()
    whole = cells.flatten().bincount(minlength=pooled) * (pooled / cells.numel())
    made_of = Shares.of(cells).merged(labels).chosen(order).provenance()
    return replace(made_of, whole=whole.float().view(len(cells), -1))


def _normalised(count: int, token: Tensor, place: Tensor, weight: Tensor) -> Shares:
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, token, weight)
    held = weight > 0
    return Shares(count, token[held], place[held], weight[held] / total[token[held]])
