"""Unified spatiotemporal token compression, its part before the language model (arXiv 2603.21957).

Its second part, which merges by the question at a layer of the language model, is not a method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.core.cost import working_dtype
from aot.core.dissimilar import admit_dissimilar
from aot.core.grid import pool
from aot.core.groups import group_means
from aot.core.shares import Shares
from aot.core.tiled_density_peaks import nearest_peak, tiled_density_peaks
from aot.methods.subset import check_budget, kept_tokens, pooled_saliency
from aot.registry import Card
from aot.strict import check
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
