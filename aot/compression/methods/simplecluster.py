"""SimpleCluster (arXiv 2609.35394): k-means over the tokens of the whole video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import kept_tokens, pooled_cells, whole_video
from aot.compression.ops.farthest import pick_farthest, table_fits
from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.group_means import group_sizes
from aot.compression.ops.kernels import runs_triton
from aot.compression.ops.kmeans import Clustering, cluster_means, row_chunks
from aot.compression.ops.read_later import Fact, FactsReadLater
from aot.compression.ops.similarity import decision_dtype
from aot.compression.ops.source_weights import chosen, merged, unchanged
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["SimpleCluster", "farthest_first", "farthest_kmeans", "rotated_by_position"]

_LENGTH_FLOOR = 1e-6  # shorter vectors are divided by this instead of by their length
_TABLE_ROWS = 1024  # rows of a table of all pairs that are computed together
_STILL = 1e-6  # centers have converged if no coordinate changes by more than this


@dataclass(frozen=True)
class SimpleCluster(CheckedSettings):
    """Merge pooled tokens into clusters of tokens that are similar and close in time and space.

    Cosine k-means runs on features that are rotated by frame, row and column (rotary embedding).
    Each seed is the token that is least similar to the earlier seeds. A kept token is the mean of
    the original features of a cluster, at the cell of the cluster's first token. Kept tokens are in
    raster order. The budget is exact.

    In the published code, the first seed is the token with the longest unit vector, so rounding
    errors decide the whole result. Here the first seed is token `first_seed`. An empty cluster at
    the end is an error in the published code. Here the empty cluster takes the token of the largest
    cluster that is least similar to this cluster's center.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2609.35394",
        remark="the means of clusters of tokens that are similar and close in time and space",
    )
    needs: ClassVar = Needs()

    theta: float = setting(10_000.0, "Base of the rotary embedding.", least=1)
    iterations: int = setting(10, "Maximum number of k-means rounds.", least=1)
    first_seed: int = setting(
        0, "Index of the token that is the first seed; the last token in a shorter video.", least=0
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: If the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        count = frames * per_frame
        features = pool(tokens.features, tokens.grid, tokens.pool)
        # 1. Rotate the features; only the clustering uses the rotated features.
        keys = features.detach().to(decision_dtype(features))
        keys = rotated_by_position(keys, pooled_grid(tokens.grid, tokens.pool), self.theta).flatten(0, 1)
        # 2. Cluster the tokens of the whole video.
        first_seed = min(self.first_seed, count - 1)
        found = farthest_kmeans(keys, budget, iterations=self.iterations, first_seed=first_seed)
        # 3. The means of the original features, sorted by first member.
        labels, (firsts, order) = found.labels, found.firsts().sort()
        return kept_tokens(
            tokens,
            cluster_means(features.flatten(0, 1), labels, budget)[order],
            firsts,
            mass=found.sizes[order],
            facts=FactsReadLater(lambda: _facts(found)),
            sources=chosen(merged(unchanged(torch.arange(count)), labels), order) if tokens.traced else None,
        )


def _facts(found: Clustering) -> dict[str, Fact]:
    return {"iterations": int(found.iterations), "distortion": float(found.distortion)}


def rotated_by_position(features: Tensor, grid: tuple[int, int], theta: float) -> Tensor:
    """Return features [F, n, D] rotated by frame, row and column; `grid` is (rows, columns).

    Channels form three sections: D // 3 + D % 3 for the frame index, then D // 3 for the row and
    D // 3 for the column. In each section, the channel pairs (0, 1), (2, 3), ... are rotated; an
    odd last channel stays. Pair j of p pairs is rotated by theta^(-j / p) radians per step along
    the axis. Vector lengths do not change.
    """
    frames, _, width = features.shape
    video = features.clone().view(frames, *grid, width)  # rotated in place
    first = 0
    # One section of channels per axis: frame, row, column.
    for axis, channels in enumerate((width // 3 + width % 3, width // 3, width // 3)):
        steps, pairs = video.shape[axis], channels // 2
        shape = [steps if other == axis else 1 for other in range(3)]
        turns = (uploaded(each.to(video.dtype), video.device) for each in _rotations(steps, pairs, theta))
        cos, sin = (each.view(*shape, pairs) for each in turns)
        section = video[..., first : first + 2 * pairs]
        even, odd = section[..., ::2].clone(), section[..., 1::2].clone()
        # Rotate the pairs (even, odd) by their angles.
        section[..., ::2] = even * cos - odd * sin
        section[..., 1::2] = even * sin + odd * cos
        first += channels
    return video.view(features.shape)


def _rotations(steps: int, pairs: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of all angles, computed on the CPU: float64 [steps, pairs]."""
    frequencies = theta ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    angles = torch.arange(steps, dtype=torch.float64)[:, None] * frequencies
    return angles.cos(), angles.sin()


def farthest_kmeans(points: Tensor, clusters: int, *, iterations: int, first_seed: int = 0) -> Clustering:
    """Cluster points [m, D] by direction, without any random choice.

    The seeds are from `farthest_first`. In each round, every point goes to the center with the
    highest cosine similarity. Then each center becomes the mean of its points' unit vectors, scaled
    to length 1. The worst-served point is the point that is least similar to its center; empty
    centers move to the worst-served points. Rounds end when no coordinate changes by more than
    1e-6, or after `iterations` rounds. A last assignment follows. Each cluster that is then empty
    takes the worst-served point of the largest cluster.

    Cosines are computed in float64 (if the device supports it) and compared in float32; ties go to
    the lower index. The order of summation then has no effect: all devices give the same clusters.

    Raises:
        ValueError: If `clusters` is not in 1 .. m, `first_seed` is not in 0 .. m - 1, or
            `iterations` is below 1.
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters: expected 1 to {len(points)}, got {clusters}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    # 1. Seeds that are far from each other.
    unit = _scaled(points.to(decision_dtype(points)))
    centers = unit[farthest_first(unit, clusters, first_seed)]
    # 2. Rounds of assignment and update.
    going = torch.ones(1, dtype=torch.bool, device=unit.device)
    passed = torch.zeros(1, dtype=torch.int64, device=unit.device)
    for _ in range(iterations):
        moved = _moved(unit, centers)
        passed += going
        # After the last round, nothing changes. Only the CPU stops: others would have to wait.
        change, centers = (moved - centers).abs().max(), torch.where(going, moved, centers)
        going &= change > _STILL
        if unit.device.type == "cpu" and not going:
            break
    # 3. The last assignment, without empty clusters.
    labels, similarity = _nearest(unit, centers)
    labels, similarity = _without_empty(labels, similarity, clusters)
    return Clustering(labels, similarity, clusters, passed)


def farthest_first(unit: Tensor, count: int, first: int = 0) -> Tensor:
    """Return `count` distinct indices of unit vectors [m, D] that are far from each other.

    The first index is `first`. Each further index has the lowest similarity to its most similar
    earlier vector; ties go to the lower index.

    Raises:
        ValueError: If `first` is not in 0 .. m - 1.
    """
    if not 0 <= first < len(unit):
        raise ValueError(f"first_seed: expected 0 to {len(unit) - 1}, got {first}")
    if table_fits(len(unit), unit.device):
        return _farthest_of_table(unit, count, first)
    nearest = torch.full((len(unit),), -torch.inf, device=unit.device)
    chosen = [torch.full((1,), first, device=unit.device)]
    while len(chosen) < count:
        nearest = torch.maximum(nearest, (unit @ unit[chosen[-1]][0]).float())
        # A chosen point is never the least similar again.
        nearest.index_fill_(0, chosen[-1], torch.inf)
        chosen.append(nearest.argmin(keepdim=True))
    return torch.cat(chosen)


def _farthest_of_table(unit: Tensor, count: int, first: int) -> Tensor:
    """Return what `farthest_first` returns, from the cosines of all pairs.

    With 6272 tokens, 627 seeds and D = 3584 in float64, a product for each seed reads 113 GB, 29
    ms; the table takes 0.16 TFLOP, 3 ms, and then a seed reads 25 KB.
    """
    limits = torch.empty(len(unit), len(unit), device=unit.device)
    # Each product of a pair is computed once: a part of the rows with these and all later rows.
    for row in range(0, len(unit), _TABLE_ROWS):
        part = -(unit[row : row + _TABLE_ROWS] @ unit[row:].mT).float()
        limits[row : row + _TABLE_ROWS, row:] = part
        limits[row:, row : row + _TABLE_ROWS] = part.mT
    limits.diagonal().fill_(-torch.inf)
    # No limit is above 1, so the gain of `first` is the highest, and then counts no more.
    gains = torch.full((1, len(unit)), 2.0, device=unit.device)
    gains[:, first].fill_(3.0)
    return pick_farthest(gains, limits[None], count)[1][0]


def _moved(unit: Tensor, centers: Tensor) -> Tensor:
    """Return the next centers [K, D]: the mean of the points that are nearest to each center."""
    labels, similarity = _nearest(unit, centers)
    # Empty centers, in ascending order, take the worst-served points, worst first.
    empty = group_sizes(labels, len(centers)) == 0
    worst = similarity.sort(stable=True).indices[: len(centers)]
    means = _scaled(cluster_means(unit, labels, len(centers)))
    return torch.where(empty[:, None], unit[worst[empty.cumsum(0) - 1]], means)


def _nearest(unit: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest center of each unit vector [m], and their cosines, float32 [m]."""
    # In chunks, because a table of all points by all centers may not fit in memory.
    chunks = row_chunks(len(unit), len(centers), unit.element_size(), unit.device)
    best = [(unit[rows] @ centers.mT).float().max(-1) for rows in chunks]
    return torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])


def _without_empty(labels: Tensor, similarity: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return labels and similarities after each empty cluster has taken a point of the largest."""
    sizes = group_sizes(labels, clusters)
    if runs_triton(labels.device):
        from aot.compression.ops.kmeans_queued import fill_queued

        return fill_queued(labels, similarity, sizes)
    for empty in (sizes == 0).nonzero().flatten().tolist():
        largest = sizes.argmax()
        # The worst-served point of the largest cluster.
        point = similarity.masked_fill(labels != largest, torch.inf).argmin()
        labels, similarity = labels.index_fill(0, point, empty), similarity.index_fill(0, point, 1.0)
        sizes[largest] -= 1
        sizes[empty] = 1
    return labels, similarity


def _scaled(values: Tensor) -> Tensor:
    """Return the vectors `values` scaled to length 1."""
    lengths: Tensor = values.norm(dim=-1, keepdim=True)
    return values / lengths.clamp_min(_LENGTH_FLOOR)
