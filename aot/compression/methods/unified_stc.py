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

from aot.compression.methods.subset import LOCAL_WINDOWS, check_budget, kept_tokens, pooled_saliency
from aot.compression.ops.farthest import pick_farthest, table_fits
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_means, group_sizes
from aot.compression.ops.products import centered_products
from aot.compression.ops.read_later import Fact, FactsReadLater
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import chosen, joined, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["UnifiedSpatiotemporal", "admit_dissimilar", "nearest_peak", "tiled_density_peaks"]

_LAST = -1  # the last block, whose output becomes the features; the paper names no block
_BLOCK = 512  # rows of the ranking that are compared in one product
_LEAST_LENGTH = 1e-12  # shorter vectors are similar to none
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
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens in raster order; a mean has the cell of the cluster center.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, pooled = len(pooled), pooled.flatten(0, 1)
        values = pooled.to(working_dtype(pooled))
        budget = min(budget, len(values))
        clusters = round(self.recycled_share * budget) if budget < len(values) else 0
        pairs = _Pairs.of(pooled) if table_fits(len(pooled), pooled.device) else None
        # 1. Take dissimilar tokens, by descending attention. If too few tokens are dissimilar, take
        # the most attended of the other tokens.
        attention = pooled_saliency(tokens, _LAST, budget if self.local_windows else None).flatten().to(values.device)
        ranked = attention.sort(descending=True, stable=True).indices
        unlike = self._unlike(values, pairs, ranked, budget - clusters)
        order = ranked[(~unlike[ranked]).to(torch.uint8).sort(stable=True).indices]
        taken, rest = order[: budget - clusters], order[budget - clusters :].sort().values
        # 2. Merge the other tokens into cluster means.
        centers, cluster, means = self._recycle(values[rest], None if pairs is None else pairs.among(rest), clusters)
        # 3. Sort both together in raster order.
        index = torch.cat([taken, rest[centers]])
        features = torch.cat([values[taken], means])
        mass = torch.cat([torch.ones_like(taken), group_sizes(cluster, clusters)])
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
            facts=FactsReadLater(lambda: _facts(int(unlike.sum()), len(taken), clusters)),
            sources=sources,
        )

    def _unlike(self, values: Tensor, pairs: _Pairs | None, ranked: Tensor, most: int) -> Tensor:
        """Return whether a token of values [m, D] is taken because it is dissimilar, bool [m]."""
        if pairs is not None:
            return pairs.admitted(ranked, self.threshold, most)
        admitted = ranked[admit_dissimilar(values[ranked], self.threshold, most)]
        return torch.zeros(len(values), dtype=torch.bool, device=values.device).index_fill_(0, admitted, True)

    def _recycle(self, rest: Tensor, products: Tensor | None, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cluster the tokens `rest` [m, D]; return centers, the cluster of each token, and means.

        Centers are indices into `rest`: [clusters]. The clusters of the tokens are [m], the cluster
        means [clusters, D]. All three tensors are empty if `clusters` is 0. For `products`, see
        `tiled_density_peaks`.
        """
        if clusters == 0:
            none = torch.zeros(0, dtype=torch.int64, device=rest.device)
            return none, none, rest[none]
        centers = tiled_density_peaks(rest, clusters, min(self.neighbors, len(rest)), products)
        cluster = nearest_peak(rest, centers, products)
        return centers, cluster, group_means(rest, cluster, clusters)


def _facts(unlike: int, taken: int, clusters: int) -> dict[str, Fact]:
    return {"unlike_tokens": unlike, "filled_tokens": taken - unlike, "recycled_tokens": clusters}


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Hold products of all pairs of tokens; cosines and distances follow from them on a GPU.

    Attributes:
        products: [m, m], the products of tokens after the mean of all tokens is subtracted.
        shift: [m]; the products of the tokens themselves are products[i, j] + shift[i] + shift[j].
        lengths: [m], the lengths of the tokens.
    """

    products: Tensor
    shift: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Pairs:
        """Return the products of all pairs of features [m, D]."""
        mean = features.mean(0, dtype=working_dtype(features))
        lengths, to_mean, products = centered_products(features[None], mean)
        return cls(products[0], to_mean[0] - mean @ mean / 2, lengths[0].clamp_min(_LEAST_LENGTH))

    def admitted(self, ranked: Tensor, threshold: float, most: int) -> Tensor:
        """Return whether `admit_dissimilar` admits a token, bool [m]; `ranked` has their order."""
        cosine = (self.products + self.shift[:, None]).add_(self.shift).div_(self.lengths[:, None]).div_(self.lengths)
        # The gain of a token is minus its rank, and -inf if it is similar to an admitted token.
        limits = torch.where(cosine < threshold, torch.inf, -torch.inf)
        limits.diagonal().fill_(-torch.inf)
        gains, picks = pick_farthest(-ranked.argsort().float()[None], limits[None], most)
        # After the last admission, picks have gain -inf.
        found = torch.zeros(len(ranked), dtype=torch.int32, device=ranked.device)
        return found.scatter_reduce_(0, picks[0], (gains[0] > -torch.inf).to(found.dtype), "amax") > 0

    def among(self, index: Tensor) -> Tensor:
        """Return the products among the tokens `index` [k]: [k, k]."""
        return self.products[index][:, index]


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


def tiled_density_peaks(features: Tensor, clusters: int, neighbors: int, products: Tensor | None = None) -> Tensor:
    """Return indices [clusters] of the best cluster centers of features [m, D], best first.

    The centers are density peaks (DPC-KNN) as in `ops.density_peaks`, but for all tokens of a
    video. All distances together do not fit into memory, so they are computed tile by tile, once
    for the densities and once for the scores. Densities are kept as logarithms: in sparse regions,
    densities would underflow and be equal. Ties in density and in score go to the lower index.
    `products` has the products [m, m] of all features after the mean is subtracted, if they are
    known already.

    Raises:
        ValueError: If `clusters` or `neighbors` is not in 1 .. m.
    """
    count = len(features)
    for name, value in (("clusters", clusters), ("neighbors", neighbors)):
        if not 1 <= value <= count:
            raise ValueError(f"{name}: expected 1 to {count}, got {value}")
    # 1. Rank tokens by density, which is exp(-sparsity).
    squared = _squared_distances(features, products)
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
    nearest_denser.index_copy_(0, densest_first[:1], torch.stack(greatest).amax()[None])
    # 3. The logarithm of distance times density.
    score = nearest_denser.log() / 2 - sparsity
    return score.sort(descending=True, stable=True).indices[:clusters]


def nearest_peak(features: Tensor, peaks: Tensor, products: Tensor | None = None) -> Tensor:
    """Return the nearest peak of each row of features [m, D], as indices [m] into `peaks`.

    `peaks` [K] holds row indices. A peak is its own nearest peak; ties go to the lower index. For
    `products`, see `tiled_density_peaks`.
    """
    squared = _squared_distances(features, products)
    nearest = torch.cat([squared(rows, peaks).argmin(1) for rows in _tiles(features)])
    # Without this, a peak could be assigned to another peak with equal features.
    nearest[peaks] = torch.arange(len(peaks), device=features.device)
    return nearest


def _squared_distances(features: Tensor, products: Tensor | None) -> Callable[..., Tensor]:
    """Return a function of squared distances, divided by D, between rows of features [m, D].

    The function takes row indices `rows` (a slice) and `columns`, and returns a table [rows,
    columns]. Without `columns`, all rows are columns, and the distance of a row to itself is
    exactly 0. For `products`, see `tiled_density_peaks`.
    """
    if products is None:
        values = features.to(working_dtype(features))
        # Subtracting the mean keeps the distances and reduces rounding in |a|^2 + |b|^2 - 2ab.
        values = values - values.mean(0)
        norms = values.square().sum(-1)
    else:
        norms = products.diagonal()

    def squared(rows: slice, columns: Tensor | None = None) -> Tensor:
        norm_sums = norms[rows, None] + (norms if columns is None else norms[columns])
        if products is None:
            others = values if columns is None else values[columns]
            tile = torch.addmm(norm_sums, values[rows], others.mT, alpha=-2)
        else:
            tile = norm_sums.sub_(products[rows] if columns is None else products[rows][:, columns], alpha=2)
        tile = tile.clamp_(min=0).div_(features.shape[1])
        if columns is None:
            # Rounding may leave a small distance from a row to itself.
            tile.diagonal(rows.start).zero_()
        return tile

    return squared


def _tiles(features: Tensor) -> Iterator[slice]:
    """Yield slices of rows whose distances to all rows fit in `_TILE_ELEMENTS` elements."""
    step = max(1, _TILE_ELEMENTS // len(features))
    for first in range(0, len(features), step):
        yield slice(first, first + step)
