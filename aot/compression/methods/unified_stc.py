"""Unified spatiotemporal token compression, its part before the language model (arXiv 2603.21957).

Its second part, which merges by the question at a layer of the language model, is not a method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens, pooled_saliency
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_means
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, Provenance, VisualTokens

__all__ = ["UnifiedSpatiotemporal"]

_LAST = -1  # the paper names no block; this is the one whose output the features are made of


@dataclass(frozen=True)
class UnifiedSpatiotemporal:
    """The most attended tokens of the whole video that are unlike each other, and means of what is left over.

    threshold: a token is taken if its cosine with all that were taken before is below it. recycled_share: share of the
    budget for means of the rest, which are clustered by density peaks with `neighbours` neighbours.

    There is no published program. Where the paper is silent: the rest is every token not taken, the walk ends when its
    share of the budget is full, and where too few tokens are unlike each other, the most attended others fill it up.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2603.21957, CVPR 2026",
        remark="the video's most attended tokens that are unlike each other, and means of clusters of the rest",
    )
    needs: ClassVar = Needs(saliency_layers=(_LAST,))

    threshold: float = 0.7
    recycled_share: float = 0.3
    neighbours: int = 7

    def __post_init__(self) -> None:
        check(
            threshold=(-1 <= self.threshold <= 1, f"must be in [-1, 1], got {self.threshold}"),
            recycled_share=(0 <= self.recycled_share <= 1, f"must be in [0, 1], got {self.recycled_share}"),
            neighbours=(self.neighbours >= 1, f"must be at least 1, got {self.neighbours}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order; a mean is in the place of its cluster's centre."""
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, values = len(pooled), pooled.to(working_dtype(pooled)).flatten(0, 1)
        budget = min(budget, len(values))
        clusters = round(self.recycled_share * budget) if budget < len(values) else 0
        attention = pooled_saliency(tokens, _LAST).flatten().to(values.device)
        taken, unlike = self._take(values, attention, budget - clusters)
        rest = _others(taken, len(values))
        centres, cluster, means = self._recycle(values[rest], clusters)
        sizes = torch.bincount(cluster, minlength=clusters)
        index = torch.cat([taken, rest[centres]])
        features = torch.cat([values[taken], means])
        mass = torch.cat([torch.ones_like(taken), sizes])
        order = index.argsort()

        def provenance() -> Provenance:
            recycled = Shares.of(rest[: len(cluster)]).merged(cluster)  # without clusters nothing has one
            return Shares.joined([Shares.of(taken), recycled]).chosen(order).provenance()

        return kept_tokens(
            tokens,
            features[order],
            index[order],
            mass=mass[order],
            clips=[Clip(0, frames)],
            facts={"unlike_tokens": unlike, "filled_tokens": len(taken) - unlike, "recycled_tokens": clusters},
            provenance=provenance,
        )

    def _take(self, values: Tensor, attention: Tensor, count: int) -> tuple[Tensor, int]:
        """`count` indices into values [N, D], and how many of them are unlike each other."""
        ranked = attention.sort(descending=True, stable=True).indices
        unlike = admit_dissimilar(values[ranked], self.threshold, count)
        filled = _others(unlike, len(ranked))[: count - len(unlike)]
        return ranked[torch.cat([unlike, filled])], len(unlike)

    def _recycle(self, rest: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
        """Centres [clusters] of rest [m, D], the cluster of each token [m] (none without clusters), and their means."""
        if clusters == 0:
            none = torch.zeros(0, dtype=torch.int64, device=rest.device)
            return none, none, rest[none]
        centres = tiled_density_peaks(rest, clusters, min(self.neighbours, len(rest)))
        cluster = nearest_peak(rest, centres)
        return centres, cluster, group_means(rest, cluster, clusters)


def _others(index: Tensor, count: int) -> Tensor:
    """All of 0 .. count - 1 but `index`, ascending."""
    other = torch.ones(count, dtype=torch.bool, device=index.device)
    other[index] = False
    return other.nonzero().flatten()


# Walking down a ranking, taking only what is unlike all that was taken, without a loop over
# tokens.

__all__ = ["admit_dissimilar"]

_BLOCK = 512


def admit_dissimilar(ranked: Tensor, threshold: float, most: int) -> Tensor:
    """Rows of ranked [m, D], best first, whose cosine with every row admitted before is below `threshold`.

    Ascending int64 indices, at most `most`. A block of the ranking is held against what was admitted before it in one
    product; who stands in whose way inside of it is then settled by repetition.
    """
    unit = functional.normalize(ranked.to(working_dtype(ranked)), dim=-1)
    admitted = torch.zeros(0, dtype=torch.int64, device=ranked.device)
    for first in range(0, len(unit), _BLOCK):
        if len(admitted) >= most:
            break
        block = unit[first : first + _BLOCK]
        free = (block @ unit[admitted].mT < threshold).all(-1)
        in_the_way = (block @ block.mT >= threshold).tril(-1)
        admitted = torch.cat([admitted, first + _settled(free, in_the_way).nonzero().flatten()])
    return admitted[:most]


def _settled(free: Tensor, in_the_way: Tensor) -> Tensor:
    """bool [b]: the free rows with no admitted row in their way, bool [b, b] below the diagonal.

    Row k is right after k + 1 repetitions at the latest, as it depends on earlier rows only; most settle in a few.
    """
    admitted = free
    while True:
        again = free & ~(in_the_way & admitted).any(-1)
        if torch.equal(again, admitted):
            return admitted
        admitted = again


# Density peaks (DPC-KNN) of a whole video's tokens, whose distances do not fit into memory at
# once.
# `aot.compression.ops.density_peaks` is for batches of frames. Here distances are recomputed a tile at a
# time, and densities stay logarithms, so that sparse tokens are told apart where their densities
# would underflow.

__all__ = ["nearest_peak", "tiled_density_peaks"]

_TILE_ELEMENTS = 1 << 24


def tiled_density_peaks(features: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Indices [clusters] of the best cluster centres of features [m, D], best first.

    The score is density times separation, as in `ops.density_peaks`; of equal densities and of equal scores the
    lower index is the greater.

    Raises:
        ValueError: clusters or neighbours is not in 1 .. m.
    """
    count = len(features)
    for name, value in (("clusters", clusters), ("neighbours", neighbours)):
        if not 1 <= value <= count:
            raise ValueError(f"{name}: expected 1 to {count}, got {value}")
    squared = _squared_distances(features)
    sparsity = torch.cat([squared(rows).topk(neighbours, largest=False).values.mean(1) for rows in _tiles(features)])
    densest_first = sparsity.sort(stable=True).indices
    rank = torch.empty_like(densest_first)
    rank[densest_first] = torch.arange(count, device=features.device)
    separation, greatest = [], []
    for rows in _tiles(features):
        tile = squared(rows)
        greatest.append(tile.amax())
        separation.append(tile.masked_fill_(rank >= rank[rows, None], torch.inf).amin(1))
    nearest_denser = torch.cat(separation)
    nearest_denser[densest_first[0]] = torch.stack(greatest).amax()
    score = nearest_denser.log() / 2 - sparsity
    return score.sort(descending=True, stable=True).indices[:clusters]


def nearest_peak(features: Tensor, peaks: Tensor) -> Tensor:
    """Which of `peaks` [K], indices into features [m, D], each row is nearest to: [m], 0 .. K - 1.

    The first of equally near ones; every peak is its own.
    """
    squared = _squared_distances(features)
    nearest = torch.cat([squared(rows, peaks).argmin(1) for rows in _tiles(features)])
    nearest[peaks] = torch.arange(len(peaks), device=features.device)
    return nearest


def _squared_distances(features: Tensor) -> Callable[..., Tensor]:
    """(rows, columns) -> squared distances / D, [rows, columns] of features [m, D]; all columns unless given."""
    values = features.to(working_dtype(features))
    values = values - values.mean(0)  # distances stay, and |a|^2 + |b|^2 - 2ab loses less
    norms = values.square().sum(-1)

    def squared(rows: Tensor, columns: Tensor | None = None) -> Tensor:
        others, other_norms = (values, norms) if columns is None else (values[columns], norms[columns])
        tile = torch.addmm(norms[rows, None] + other_norms, values[rows], others.mT, alpha=-2)
        tile = tile.clamp_(min=0).div_(values.shape[1])
        if columns is None:
            tile[torch.arange(len(rows), device=rows.device), rows] = 0
        return tile

    return squared


def _tiles(features: Tensor) -> Iterator[Tensor]:
    """Row numbers, as many at once as make a tile of the size that memory allows."""
    count = len(features)
    yield from torch.split(torch.arange(count, device=features.device), max(1, _TILE_ELEMENTS // count))
