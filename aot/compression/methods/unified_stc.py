"""Unified spatiotemporal token compression (arXiv 2603.21957) before the language model.

The second part of the paper, which uses the question to merge tokens inside the language model, is
not implemented.
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
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import chosen, joined, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["UnifiedSpatiotemporal", "admit_dissimilar", "nearest_peak", "tiled_density_peaks"]

_LAST = -1  # the last block, whose output becomes the features; the paper names no block
_BLOCK = 512  # rows of the ranking that are compared in one product
_TILE_ELEMENTS = 1 << 24  # distances that are in memory together


@dataclass(frozen=True)
class UnifiedSpatiotemporal(CheckedSettings):
    """Keep the video's most attended tokens that are dissimilar, and cluster means of the others.

    Tokens are ranked by the attention received in the last block of the vision tower. A token is
    taken if it is dissimilar to every token taken before. All tokens that are not taken are
    clustered. There is no published code, and the paper leaves some points open. Here the selection
    ends when 1 - `recycled_share` of the budget is used; if too few tokens are dissimilar, the most
    attended of the other tokens are taken as well.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2603.21957, CVPR 2026",
        remark="the video's most attended tokens that are dissimilar, and means of clusters of the others",
    )
    needs: ClassVar = Needs(saliency_layers=(_LAST,))

    threshold: float = setting(
        0.7, "A token is taken if its cosine similarity to every token taken before is below this.", least=-1, most=1
    )
    recycled_share: float = setting(0.3, "Share of the budget that is cluster means of the others.", least=0, most=1)
    neighbors: int = setting(7, "Number of nearest tokens that define a density, including the token itself.", least=1)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens in raster order; a mean has the cell of the cluster center.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, values = len(pooled), pooled.to(working_dtype(pooled)).flatten(0, 1)
        budget = min(budget, len(values))
        clusters = round(self.recycled_share * budget) if budget < len(values) else 0
        # 1. Take dissimilar tokens, by descending attention.
        attention = pooled_saliency(tokens, _LAST).flatten().to(values.device)
        taken, unlike = self._take(values, attention, budget - clusters)
        # 2. Merge the other tokens into cluster means.
        rest = _others(taken, len(values))
        centers, cluster, means = self._recycle(values[rest], clusters)
        sizes = torch.bincount(cluster, minlength=clusters)
        # 3. Sort both together in raster order.
        index = torch.cat([taken, rest[centers]])
        features = torch.cat([values[taken], means])
        mass = torch.cat([torch.ones_like(taken), sizes])
        order = index.argsort()
        sources = None
        if tokens.traced:
            recycled = merged(unchanged(rest[: len(cluster)]), cluster)  # no rows if there are no clusters
            sources = chosen(joined([unchanged(taken), recycled]), order)
        return kept_tokens(
            tokens,
            features[order],
            index[order],
            mass=mass[order],
            clips=[Clip(0, frames)],
            facts={"unlike_tokens": unlike, "filled_tokens": len(taken) - unlike, "recycled_tokens": clusters},
            sources=sources,
        )

    def _take(self, values: Tensor, attention: Tensor, count: int) -> tuple[Tensor, int]:
        """Return the indices of the `count` taken tokens, and how many of them are dissimilar."""
        ranked = attention.sort(descending=True, stable=True).indices
        unlike = admit_dissimilar(values[ranked], self.threshold, count)
        # If too few tokens are dissimilar, take the most attended of the other tokens.
        filled = _others(unlike, len(ranked))[: count - len(unlike)]
        return ranked[torch.cat([unlike, filled])], len(unlike)

    def _recycle(self, rest: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cluster the tokens `rest` [m, D]; return centers, the cluster of each token, and means.

        Centers are indices into `rest`: [clusters]. The clusters of the tokens are [m], the cluster
        means [clusters, D]. All three tensors are empty if `clusters` is 0.
        """
        if clusters == 0:
            none = torch.zeros(0, dtype=torch.int64, device=rest.device)
            return none, none, rest[none]
        centers = tiled_density_peaks(rest, clusters, min(self.neighbors, len(rest)))
        cluster = nearest_peak(rest, centers)
        return centers, cluster, group_means(rest, cluster, clusters)


def _others(index: Tensor, count: int) -> Tensor:
    """Return the numbers in 0 .. count - 1 that are not in `index`, ascending."""
    other = torch.ones(count, dtype=torch.bool, device=index.device)
    other[index] = False
    return other.nonzero().flatten()


def admit_dissimilar(ranked: Tensor, threshold: float, most: int) -> Tensor:
    """Return the indices of at most `most` rows of `ranked` that are dissimilar: int64, ascending.

    The rows of `ranked` [m, D] are visited from first to last. A row is admitted if its cosine
    similarity to every row admitted before is below `threshold`.
    """
    unit = functional.normalize(ranked.to(working_dtype(ranked)), dim=-1)
    admitted = torch.zeros(0, dtype=torch.int64, device=ranked.device)
    for first in range(0, len(unit), _BLOCK):
        if len(admitted) >= most:
            break
        # One product compares a block of rows with all rows admitted before. A second product
        # compares the rows of the block with each other. No loop over tokens is needed.
        block = unit[first : first + _BLOCK]
        free = (block @ unit[admitted].mT < threshold).all(-1)
        in_the_way = (block @ block.mT >= threshold).tril(-1)
        admitted = torch.cat([admitted, first + _settled(free, in_the_way).nonzero().flatten()])
    return admitted[:most]


def _settled(free: Tensor, in_the_way: Tensor) -> Tensor:
    """Return which rows of a block are admitted, bool [b].

    A row is admitted if it is dissimilar to all rows admitted before. Row k is final after at most
    k + 1 repetitions of this rule, because it depends on earlier rows only.

    Args:
        free: bool [b], whether a row is dissimilar to all rows admitted before the block.
        in_the_way: bool [b, b], entry [k, j] is true if j < k and rows k and j are similar.
    """
    admitted = free
    while True:
        again = free & ~(in_the_way & admitted).any(-1)
        if torch.equal(again, admitted):
            return admitted
        admitted = again


def tiled_density_peaks(features: Tensor, clusters: int, neighbors: int) -> Tensor:
    """Return indices [clusters] of the best cluster centers of features [m, D], best first.

    The centers are density peaks (DPC-KNN) as in `ops.density_peaks`, but for all tokens of a
    video. All distances together do not fit into memory, so they are computed tile by tile, once
    for the densities and once for the scores. Densities are kept as logarithms: in sparse regions,
    densities would underflow and be equal. Ties in density and in score go to the lower index.

    Raises:
        ValueError: If `clusters` or `neighbors` is not in 1 .. m.
    """
    count = len(features)
    for name, value in (("clusters", clusters), ("neighbors", neighbors)):
        if not 1 <= value <= count:
            raise ValueError(f"{name}: expected 1 to {count}, got {value}")
    # 1. Rank tokens by density, which is exp(-sparsity).
    squared = _squared_distances(features)
    sparsity = torch.cat([squared(rows).topk(neighbors, largest=False).values.mean(1) for rows in _tiles(features)])
    densest_first = sparsity.sort(stable=True).indices
    rank = torch.empty_like(densest_first)
    rank[densest_first] = torch.arange(count, device=features.device)
    # 2. The distance to the nearest denser token; for the densest token, the largest distance.
    separation, greatest = [], []
    for rows in _tiles(features):
        tile = squared(rows)
        greatest.append(tile.amax())
        separation.append(tile.masked_fill_(rank >= rank[rows, None], torch.inf).amin(1))
    nearest_denser = torch.cat(separation)
    nearest_denser[densest_first[0]] = torch.stack(greatest).amax()
    # 3. The logarithm of distance times density.
    score = nearest_denser.log() / 2 - sparsity
    return score.sort(descending=True, stable=True).indices[:clusters]


def nearest_peak(features: Tensor, peaks: Tensor) -> Tensor:
    """Return the nearest peak of each row of features [m, D], as indices [m] into `peaks`.

    `peaks` [K] holds row indices. A peak is its own nearest peak; ties go to the lower index.
    """
    squared = _squared_distances(features)
    nearest = torch.cat([squared(rows, peaks).argmin(1) for rows in _tiles(features)])
    # Without this, a peak could be assigned to another peak with equal features.
    nearest[peaks] = torch.arange(len(peaks), device=features.device)
    return nearest


def _squared_distances(features: Tensor) -> Callable[..., Tensor]:
    """Return a function of squared distances, divided by D, between rows of features [m, D].

    The function takes row indices `rows` and `columns` and returns a table [rows, columns]. Without
    `columns`, all rows are columns, and the distance of a row to itself is exactly 0.
    """
    values = features.to(working_dtype(features))
    # Subtracting the mean keeps the distances and reduces rounding in |a|^2 + |b|^2 - 2ab.
    values = values - values.mean(0)
    norms = values.square().sum(-1)

    def squared(rows: Tensor, columns: Tensor | None = None) -> Tensor:
        others, other_norms = (values, norms) if columns is None else (values[columns], norms[columns])
        tile = torch.addmm(norms[rows, None] + other_norms, values[rows], others.mT, alpha=-2)
        tile = tile.clamp_(min=0).div_(values.shape[1])
        if columns is None:
            # Rounding may leave a small distance from a row to itself.
            tile[torch.arange(len(rows), device=rows.device), rows] = 0
        return tile

    return squared


def _tiles(features: Tensor) -> Iterator[Tensor]:
    """Yield chunks of row indices whose distances to all rows fit in `_TILE_ELEMENTS` elements."""
    count = len(features)
    yield from torch.split(torch.arange(count, device=features.device), max(1, _TILE_ELEMENTS // count))
