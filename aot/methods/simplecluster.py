"""SimpleCluster: the tokens of the whole video in as many clusters as the budget has tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.core.cost import decision_dtype
from aot.core.farthest_kmeans import farthest_kmeans
from aot.core.grid import pool, pooled_grid
from aot.core.kmeans import cluster_means
from aot.core.rotary import rotated_by_place
from aot.core.shares import Shares
from aot.methods.subset import kept_tokens, pooled_cells, whole_video
from aot.registry import Card
from aot.strict import check
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["SimpleCluster"]


@dataclass(frozen=True)
class SimpleCluster:
    """Means of clusters of pooled tokens that look alike and are near each other in time and space.

    Cosine k-means runs on features rotated by frame, row and column (rotary embedding, base `theta`), for at most
    `iterations` rounds, from seeds each of which is the token least similar to those before. The tokens are the means
    of the features themselves, in the order of their first members, where they are placed. Budgets are exact.

    The published program takes as first seed the token with the longest unit vector, which is whatever rounding makes
    it, and with it the whole result. Here it is token `first_seed`, or the last one of a shorter video. A cluster that
    ends without tokens is an error there; here it takes the worst served token of the largest one.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2609.35394",
        remark="the means of clusters of tokens that look alike and are near in time and space",
    )
    needs: ClassVar = Needs()

    theta: float = 10_000.0
    iterations: int = 10
    first_seed: int = 0

    def __post_init__(self) -> None:
        check(
            theta=(self.theta >= 1, f"must be at least 1, got {self.theta}"),
            iterations=(self.iterations >= 1, f"must be at least 1, got {self.iterations}"),
            first_seed=(self.first_seed >= 0, f"must be at least 0, got {self.first_seed}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        count = frames * per_frame
        features = pool(tokens.features, tokens.grid, tokens.pool)
        keys = features.to(decision_dtype(features))
        keys = rotated_by_place(keys, pooled_grid(tokens.grid, tokens.pool), self.theta).flatten(0, 1)
        first_seed = min(self.first_seed, count - 1)
        found = farthest_kmeans(keys, budget, iterations=self.iterations, first_seed=first_seed)
        labels, (firsts, order) = found.labels, found.firsts().sort()
        return kept_tokens(
            tokens,
            cluster_means(features.flatten(0, 1), labels, budget)[order],
            firsts,
            mass=found.sizes[order],
            facts={"iterations": found.iterations, "distortion": found.distortion},
            provenance=lambda: Shares.of(torch.arange(count)).merged(labels).chosen(order).provenance(),
        )
