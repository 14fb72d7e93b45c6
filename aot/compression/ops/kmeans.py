"""Cluster the tokens of a video by k-means with cosine similarity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.farthest import table_fits
from aot.compression.ops.group_means import group_sizes
from aot.compression.ops.kernels import needs_grad, runs_triton
from aot.compression.ops.products import pair_products
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.uploads import uploaded

__all__ = ["Clustering", "cluster_means", "cosine_kmeans", "row_chunks", "seed_points"]

_TABLE_BYTES = 8 << 20  # largest temporary table, of points by clusters or points by channels
_PRODUCTS_BYTES = 5 << 29  # largest table of all products of points: 2.2 GB for 32 frames of 729 patches
_TIMES_ON_DEVICES = 32  # as large on devices without the CPU's small caches
_LEAST_LENGTH = 1e-12  # shorter vectors have no direction
_FLOOR = 1e-6  # added to squared distances: points that equal a seed can still be drawn


@dataclass(frozen=True, slots=True)
class Clustering:
    """Hold a partition of m points into K non-empty clusters.

    Attributes:
        labels: int64 [m], each point's cluster in 0 .. K - 1.
        similarity: [m], each point's cosine similarity to its nearest center; 1 for a point that
            was moved into an empty cluster.
        clusters: K, the number of clusters.
        iterations: the number of updates of the centers; on a GPU, an integer tensor [1].
    """

    labels: Tensor
    similarity: Tensor
    clusters: int
    iterations: int | Tensor

    @property
    def sizes(self) -> Tensor:
        """Return the number of points in each cluster, int64 [K]."""
        return group_sizes(self.labels, self.clusters)

    @property
    def distortion(self) -> Tensor:
        """Return the sum of 1 - `similarity` over all points, a scalar."""
        return (1 - self.similarity.to(decision_dtype(self.similarity))).sum()

    def firsts(self) -> Tensor:
        """Return the lowest point index in each cluster, int64 [K]."""
        return _lowest(self.labels, self.clusters, torch.ones_like(self.labels, dtype=torch.bool))


def cosine_kmeans(
    points: Tensor, clusters: int, *, iterations: int, tolerance: float = 1e-4, seed: int = 0
) -> Clustering:
    """Cluster points [m, D] by direction into exactly `clusters` non-empty clusters.

    Each point belongs to the center with the highest cosine similarity; a center is the mean of its
    points' unit vectors. Ties go to the lower index. Seeds are drawn by k-means++ with a
    separate random generator. An empty cluster keeps its center during the iterations. After them,
    the points that are least similar to their own centers are moved, one into each empty cluster.
    The same points give the same clusters on the same device.

    Args:
        points: [m, D].
        clusters: K, in 1 .. m.
        iterations: the largest number of iterations, at least 1.
        tolerance: stop when the Frobenius norm of the centers' change is below this.
        seed: the seed of the generator.

    Raises:
        ValueError: If `clusters` is not in 1 .. m, or `iterations` is below 1.
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters: expected 1 to {len(points)}, got {clusters}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    # 1. Seeds. The random numbers are drawn on the CPU and are the same for every device.
    draws = torch.rand(clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if runs_triton(points.device) and points.dtype != torch.float64:
        return _queued_kmeans(points, draws, iterations, tolerance)
    unit = functional.normalize(points.to(working_dtype(points)), dim=-1)
    centers = unit[seed_points(unit, draws)]
    # 2. Alternate assignment and update.
    passed = 0
    for _ in range(iterations):
        passed += 1
        labels, similarity = _nearest(unit, centers)
        moved = cluster_means(unit, labels, clusters)
        # An empty cluster keeps its center for now.
        moved = torch.where(group_sizes(labels, clusters)[:, None] > 0, moved, centers)
        shift, centers = (moved - centers).norm(), moved
        if shift < tolerance:
            break
    # 3. Fill the empty clusters.
    labels, similarity = _without_empty(labels, similarity, clusters)
    return Clustering(labels, similarity, clusters, passed)


def _queued_kmeans(points: Tensor, draws: Tensor, iterations: int, tolerance: float) -> Clustering:
    """Return what `cosine_kmeans` returns, without waiting for the device."""
    from aot.compression.ops.kmeans_queued import draw_queued, rounds_queued

    points = points.contiguous()
    lengths = torch.linalg.vector_norm(points, dim=-1, dtype=torch.float32).clamp_min(_LEAST_LENGTH)
    if table_fits(len(points), points.device, _PRODUCTS_BYTES):
        draws = uploaded(draws, points.device)
        seeds = draw_queued(pair_products(points[None])[0], lengths, draws, _FLOOR)
    else:
        seeds = seed_points(points / lengths[:, None], draws)
    labels, similarity, passed = rounds_queued(points, lengths, seeds, iterations, tolerance)
    labels, similarity = _without_empty(labels, similarity, len(seeds))
    return Clustering(labels, similarity, len(seeds), passed)


def seed_points(unit: Tensor, draws: Tensor) -> Tensor:
    """Return the indices [K] of the k-means++ seeds among the points.

    The first seed is drawn uniformly. Each further seed is drawn with a probability proportional to
    the squared distance to the nearest earlier seed.

    Args:
        unit: [m, D], the points as unit vectors.
        draws: [K], uniform random numbers in [0, 1), one per seed.
    """
    draws = uploaded(draws.to(decision_dtype(unit)), unit.device)
    distance = torch.ones(len(unit), dtype=unit.dtype, device=unit.device)
    seeds = []
    for draw in draws:
        # Inverse transform sampling: find the draw in the cumulative sum of the weights.
        heaped = (distance + _FLOOR).to(draws.dtype).cumsum(0)
        seed = torch.searchsorted(heaped, draw * heaped[-1:], right=True).clamp_max(len(unit) - 1)
        seeds.append(seed)
        # |a - b|^2 = 2 - 2 a.b for unit vectors.
        to_seed = (2 - 2 * (unit @ unit[seed][0])).clamp_min(0)
        distance = to_seed if len(seeds) == 1 else torch.minimum(distance, to_seed)
    return torch.cat(seeds)


def cluster_means(values: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Return the mean of `values` [m, D] for each label, [K, D]; 0 for a label without values."""
    if runs_triton(values.device) and not needs_grad(values):
        from aot.compression.ops.kmeans_queued import means_queued

        return means_queued(values, labels, clusters, working_dtype(values))[0]
    sums = values.new_zeros(clusters, values.shape[1], dtype=working_dtype(values))
    # In chunks: a converted copy of all values would need too much memory.
    each = torch.arange(clusters, device=labels.device)[:, None]
    for rows in row_chunks(len(values), max(sums.shape), sums.element_size(), values.device):
        part = values[rows].to(sums.dtype)
        if values.device.type == "cpu":
            sums.index_add_(0, labels[rows], part)
        else:
            # On GPUs `index_add_` sums in random order; a matrix product uses a fixed order.
            sums += (labels[rows] == each).to(sums.dtype) @ part
    return sums / group_sizes(labels, clusters).clamp_min(1)[:, None]


def row_chunks(rows: int, width: int, item_bytes: int, device: torch.device) -> Iterator[slice]:
    """Yield slices that cover `rows` rows of `width` items: at most 8 MiB each, or one row.

    On devices other than the CPU, 256 MiB: few launches matter more there than a cache.
    """
    table_bytes = _TABLE_BYTES * (1 if device.type == "cpu" else _TIMES_ON_DEVICES)
    step = max(1, table_bytes // (width * item_bytes))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _nearest(unit: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each unit vector [m, D], the index of the most similar center and the cosine."""
    towards = functional.normalize(centers, dim=-1).mT
    chunks = row_chunks(len(unit), len(centers), unit.element_size(), unit.device)
    parts = [(unit[rows] @ towards).max(-1) for rows in chunks]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _without_empty(labels: Tensor, similarity: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return labels and similarities after moving the least similar points to empty clusters."""
    # Shapes may not depend on the number of empty clusters: a GPU would have to wait for it.
    held = (group_sizes(labels, clusters) > 0).to(torch.uint8)
    emptiest = held.sort(stable=True).indices
    takes = torch.arange(clusters, device=labels.device) < clusters - held.sum()
    # Medoids never move: no cluster loses its last point. An empty cluster has medoid m.
    medoids = _medoids(labels, similarity, clusters)
    fit = functional.pad(similarity, (0, 1)).index_fill(0, medoids, torch.inf)[:-1]
    moved = fit.sort(stable=True).indices[:clusters]
    labels = labels.scatter(0, moved, torch.where(takes, emptiest, labels[moved]))
    return labels, similarity.scatter(0, moved, torch.where(takes, 1.0, similarity[moved]))


def _medoids(labels: Tensor, similarity: Tensor, clusters: int) -> Tensor:
    """Return the index of the point most similar to each center, [K]; m for an empty cluster."""
    best = similarity.new_full((clusters,), -torch.inf).scatter_reduce_(0, labels, similarity, "amax")
    return _lowest(labels, clusters, similarity == best[labels])


def _lowest(labels: Tensor, clusters: int, among: Tensor) -> Tensor:
    """Return [K], each label's lowest index at which `among` [m] is true; m if there is none."""
    index = torch.arange(len(labels), device=labels.device).masked_fill_(~among, len(labels))
    return index.new_full((clusters,), len(labels)).scatter_reduce_(0, labels, index, "amin")
