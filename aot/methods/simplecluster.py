"""SimpleCluster: the tokens of the whole video in as many clusters as the budget has tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.core.cost import decision_dtype
from aot.core.grid import pool, pooled_grid
from aot.core.kmeans import cluster_means, cosine_kmeans
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

    Cosine k-means runs on features turned by frame, row and column (rotary embedding, base `theta`); the tokens are the
    means of the features themselves. They come in the order of their members' mean place in the video, each placed
    where its member nearest to the centre is. Budgets are exact.

    Known from a preprint's description only: how it shares channels among the three axes, and how it starts and ends
    k-means, is not. Here each axis has a third of the channels, and k-means++ with `seed` is followed by at most
    `iterations` rounds.
    """

    card: ClassVar = Card(
        "after pooling",
        "SimpleCluster, preprint, 2026",
        remark="the means of clusters of tokens that look alike and are near in time and space",
    )
    needs: ClassVar = Needs()

    theta: float = 10_000.0
    iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            theta=(self.theta >= 1, f"must be at least 1, got {self.theta}"),
            iterations=(self.iterations >= 1, f"must be at least 1, got {self.iterations}"),
            seed=(0 <= self.seed < 2**31, f"must be in 0 .. 2^31 - 1, got {self.seed}"),
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
        keys = rotated_by_place(features, pooled_grid(tokens.grid, tokens.pool), self.theta).flatten(0, 1)
        found = cosine_kmeans(keys, budget, iterations=self.iterations, seed=self.seed)
        place = torch.arange(count, dtype=decision_dtype(keys), device=keys.device)[:, None]
        order = cluster_means(place, found.labels, budget)[:, 0].sort(stable=True).indices
        return kept_tokens(
            tokens,
            cluster_means(features.flatten(0, 1), found.labels, budget)[order],
            found.medoids()[order],
            mass=found.sizes[order],
            facts={"iterations": found.iterations, "distortion": found.distortion},
            provenance=lambda: Shares.of(torch.arange(count)).merged(found.labels).chosen(order).provenance(),
        )
