"""Trace what merged tokens are made of.

Runs on the CPU, where sums repeat to the bit, and only on request: compression never needs it.
"""

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
    """Hold tokens as weighted means of pooled tokens, in E sparse entries.

    The weights of a token sum to 1. A pair of a token and a place may occur more than once.

    Attributes:
        count: the number of tokens.
        token: int64 [E], the token of each entry.
        place: int64 [E], the index of a pooled token that is part of it, among all F * n.
        weight: float64 [E], positive.
    """

    count: int
    token: Tensor
    place: Tensor
    weight: Tensor

    @classmethod
    def of(cls, place: Tensor) -> Shares:
        """Return one token for each index of a pooled token in `place`, int64 of any shape."""
        place = place.flatten().cpu()
        return cls(len(place), torch.arange(len(place)), place, torch.ones(len(place), dtype=torch.float64))

    @classmethod
    def of_frames(cls, weights: Tensor, first: int) -> Shares:
        """Return the tokens of consecutive frames, each a weighted mean over its own frame.

        Args:
            weights: [f, k, n], of the frame's n pooled tokens in each of its k tokens.
            first: the index of the first of the f frames.
        """
        weights = weights.cpu().double()
        frame, row, cell = weights.nonzero(as_tuple=True)
        token, place = frame * weights.shape[1] + row, (first + frame) * weights.shape[2] + cell
        return _normalised(weights.shape[0] * weights.shape[1], token, place, weights[frame, row, cell])

    @classmethod
    def joined(cls, parts: Sequence[Shares]) -> Shares:
        """Return the tokens of all parts one after the other."""
        firsts = [0, *accumulate(part.count for part in parts)]
        return cls(
            firsts[-1],
            torch.cat([part.token + first for part, first in zip(parts, firsts, strict=False)]),
            torch.cat([part.place for part in parts]),
            torch.cat([part.weight for part in parts]),
        )

    def merged(self, group: Tensor, weight: Tensor | None = None) -> Shares:
        """Return the means of groups of these tokens.

        Args:
            group: the group of each token; a negative one drops the token.
            weight: of each token in its mean; equal if None.
        """
        group = group.flatten().cpu()
        # A mean of means weights each entry by the product of both weights, up to normalization.
        own = self.weight if weight is None else self.weight * weight.flatten().cpu().double()[self.token]
        token = group[self.token]
        held = token >= 0
        return _normalised(int(group.max()) + 1 if len(group) else 0, token[held], self.place[held], own[held])

    def blended(self, others: Shares, own: Tensor | float) -> Shares:
        """Return own * self + (1 - own) * others by token; self where `others` lacks the token.

        own: [count] or one number, in [0, 1].
        """
        is_blend = torch.zeros(self.count, dtype=torch.bool).index_fill_(0, others.token, True)
        own = torch.where(is_blend, torch.as_tensor(own).cpu().double(), 1.0)
        return _normalised(
            self.count,
            torch.cat([self.token, others.token]),
            torch.cat([self.place, others.place]),
            torch.cat([self.weight * own[self.token], others.weight * (1 - own)[others.token]]),
        )

    def chosen(self, order: Tensor) -> Shares:
        """Return the tokens with indices `order` (int64 [K], all different), in this order."""
        rank = torch.full((self.count,), -1)
        rank[order.cpu()] = torch.arange(len(order))
        return self.merged(rank)

    def provenance(self) -> Provenance:
        """Return the entries as a `Provenance`, sorted by token and place, with each pair once."""
        # One integer per pair lets `unique` sort the pairs and find repeats.
        places = int(self.place.max()) + 1
        pairs, pair = (self.token * places + self.place).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        share = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, pair, self.weight)
        return Provenance(pairs // places, pairs % places, share.float())


def of_patches(cells: Tensor, pooled: int, labels: Tensor, order: Tensor) -> Provenance:
    """Return the provenance of tokens that are means of patches.

    Args:
        cells: [F, N], the pooled token each patch belongs to, in 0 .. pooled - 1 over all F frames.
        pooled: F * n, the number of pooled tokens.
        labels: [F * N], the group of each patch; each group is averaged into one token.
        order: [K], the groups in the order of the kept tokens.
    """
    cells = cells.cpu()
    # A pooled token's mass is its number of patches, scaled to a mean of 1.
    whole = cells.flatten().bincount(minlength=pooled) * (pooled / cells.numel())
    made_of = Shares.of(cells).merged(labels).chosen(order).provenance()
    return replace(made_of, whole=whole.float().view(len(cells), -1))


def _normalised(count: int, token: Tensor, place: Tensor, weight: Tensor) -> Shares:
    """Return shares whose weights sum to 1 in each token, without entries of weight 0."""
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, token, weight)
    held = weight > 0
    return Shares(count, token[held], place[held], weight[held] / total[token[held]])
