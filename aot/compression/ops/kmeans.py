"""K-means by cosine, of all tokens of a video at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import decision_dtype, working_dtype

__all__ = ["Clustering", "cluster_means", "cluster_sizes", "cosine_kmeans", "row_chunks", "seed_points"]

_TABLE_BYTES = 8 << 20  # of points by clusters, or points by channels, at once
_FLOOR = 1e-6  # added to squared distances, so that points which coincide with a seed can be drawn


@dataclass(frozen=True, slots=True)
class Clustering:
    """labels: int64 [m], the cluster in 0 .. K - 1 of every point; none is empty. similarity: [m], each point's cosine
    with the centre it was nearest to. clusters: K. iterations: how often the centres moved.
    """

    labels: Tensor
    similarity: Tensor
    clusters: int
    iterations: int

    @property
    def sizes(self) -> Tensor:
        """int64 [K], how many points each has."""
        return cluster_sizes(self.labels, self.clusters)

    @property
    def distortion(self) -> float:
        """Sum of 1 - cosine over the points."""
        return float((1 - self.similarity.to(decision_dtype(self.similarity))).sum())

    def firsts(self) -> Tensor:
        """int64 [K], the lowest index among each cluster's points."""
        return _lowest(self.labels, self.clusters, torch.ones_like(self.labels, dtype=torch.bool))


def cosine_kmeans(
    points: Tensor, clusters: int, *, iterations: int, tolerance: float = 1e-4, seed: int = 0
) -> Clustering:
    """Cluster points [m, D] by direction: every point goes to the centre of greatest cosine (of equals the lower), and
    centres are the means of their unit vectors, until they move less than `tolerance` (Frobenius norm) or `iterations`
    have passed.

    Seeds are drawn as by k-means++ from a generator of its own. A cluster left without points keeps its centre
    meanwhile, and at last takes the point that fits its own cluster worst (of equals the lower), so that there are
    exactly `clusters`. The same points give the same clusters on the same device.

    Raises:
        ValueError: clusters is not in 1 .. m, or there is no iteration.
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters: expected 1 to {len(points)}, got {clusters}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    unit = functional.normalize(points.to(working_dtype(points)), dim=-1)
    draws = torch.rand(clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centres = unit[seed_points(unit, draws)]
    passed = 0
    for _ in range(iterations):
        passed += 1
        labels, similarity = _nearest(unit, centres)
        moved = cluster_means(unit, labels, clusters)
        moved = torch.where(cluster_sizes(labels, clusters)[:, None] > 0, moved, centres)
        shift, centres = (moved - centres).norm(), moved
        if shift < tolerance:
            break
    labels, similarity = _without_empty(labels, similarity, clusters)
    return Clustering(labels, similarity, clusters, passed)


def seed_points(unit: Tensor, draws: Tensor) -> Tensor:
    """Indices [K] of the seeds (k-means++) among unit vectors [m, D]: each is drawn, with the next of `draws` [K] in
    [0, 1), in proportion to the squared distance to the nearest seed so far; the first is as likely to be any.
    """
    draws = draws.to(unit.device, decision_dtype(unit))
    distance = torch.ones(len(unit), dtype=unit.dtype, device=unit.device)
    seeds = []
    for draw in draws:
        heaped = (distance + _FLOOR).to(draws.dtype).cumsum(0)
        seed = torch.searchsorted(heaped, draw * heaped[-1:], right=True).clamp_max(len(unit) - 1)
        seeds.append(seed)
        to_seed = (2 - 2 * (unit @ unit[seed][0])).clamp_min(0)
        distance = to_seed if len(seeds) == 1 else torch.minimum(distance, to_seed)
    return torch.cat(seeds)


def cluster_means(values: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Means [K, D], in the working dtype, of the values [m, D] of each label; 0 where there are none."""
    sums = values.new_zeros(clusters, values.shape[1], dtype=working_dtype(values))
    each = torch.arange(clusters, device=labels.device)[:, None]
    for rows in row_chunks(len(values), max(sums.shape), sums.element_size()):
        part = values[rows].to(sums.dtype)
        if values.device.type == "cpu":
            sums.index_add_(0, labels[rows], part)
        else:  # where threads race, only a product adds in the same order every time
            sums += (labels[rows] == each).to(sums.dtype) @ part
    return sums / cluster_sizes(labels, clusters).clamp_min(1)[:, None]


def cluster_sizes(labels: Tensor, clusters: int) -> Tensor:
    """Return int64 [K], how many points have each label."""
    return labels.new_zeros(clusters).index_add_(0, labels, torch.ones_like(labels))


def row_chunks(rows: int, width: int, item_bytes: int) -> Iterator[slice]:
    """Yield slices of `rows`, so many at a time that a table of them by `width` stays small."""
    step = max(1, _TABLE_BYTES // (width * item_bytes))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _nearest(unit: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """For unit vectors [m, D] the centre of [K, D] with the greatest cosine, and that cosine: both [m]."""
    towards = functional.normalize(centres, dim=-1).mT
    parts = [(unit[rows] @ towards).max(-1) for rows in row_chunks(len(unit), len(centres), unit.element_size())]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _without_empty(labels: Tensor, similarity: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Labels and similarities after each cluster without points took the worst fitting one that is no medoid."""
    empty = (cluster_sizes(labels, clusters) == 0).nonzero().flatten()
    medoids = _medoids(labels, similarity, clusters)
    fit = similarity.index_fill(0, medoids[medoids < len(labels)], torch.inf)
    moved = fit.sort(stable=True).indices[: len(empty)]
    return labels.index_copy(0, moved, empty), similarity.index_fill(0, moved, 1.0)


def _medoids(labels: Tensor, similarity: Tensor, clusters: int) -> Tensor:
    best = similarity.new_full((clusters,), -torch.inf).scatter_reduce_(0, labels, similarity, "amax")
    return _lowest(labels, clusters, similarity == best[labels])


def _lowest(labels: Tensor, clusters: int, among: Tensor) -> Tensor:
    """The lowest index of each label [K] where `among` [m] holds; m where there is none."""
    index = torch.arange(len(labels), device=labels.device).masked_fill_(~among, len(labels))
    return index.new_full((clusters,), len(labels)).scatter_reduce_(0, labels, index, "amin")
