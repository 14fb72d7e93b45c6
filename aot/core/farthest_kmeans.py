"""K-means by cosine from seeds that are far from each other, as SimpleCluster runs it: no chance is involved."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.core.cost import decision_dtype
from aot.core.kmeans import Clustering, cluster_means, cluster_sizes, row_chunks

__all__ = ["farthest_first", "farthest_kmeans"]

_LENGTH_FLOOR = 1e-6  # of a vector that is scaled to length 1
_STILL = 1e-6  # the greatest change of a coordinate at which centers count as settled


def farthest_kmeans(points: Tensor, clusters: int, *, iterations: int, first_seed: int = 0) -> Clustering:
    """Cluster points [m, D] by direction.

    From the seeds of `farthest_first`, every point goes to the center with the greatest cosine, and centers are their
    points' unit vectors' mean, scaled to length 1. A center without points moves to the point that its own center
    serves worst (several to as many points, worst first). Rounds end when no coordinate moves by more than 1e-6 or
    after `iterations`; a last assignment follows. Where that leaves a cluster empty, the largest one gives it its worst
    served point, so that there are exactly `clusters`.

    Cosines are computed in float64 and compared in float32, and ties go to the lower index. What is equal is then equal
    on every device, in whatever order it adds, and the same points give the same clusters.

    Raises:
        ValueError: clusters is not in 1 .. m, first_seed not in 0 .. m - 1, or there is no iteration.
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters: expected 1 to {len(points)}, got {clusters}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    unit = _scaled(points.to(decision_dtype(points)))
    centers = unit[farthest_first(unit, clusters, first_seed)]
    passed, moved = 0, float("inf")
    while passed < iterations and moved > _STILL:
        passed += 1
        before, centers = centers, _moved(unit, centers)
        moved = float((centers - before).abs().max())
    labels, similarity = _nearest(unit, centers)
    labels, similarity = _without_empty(labels, similarity, clusters)
    return Clustering(labels, similarity, clusters, passed)


def farthest_first(unit: Tensor, count: int, first: int = 0) -> Tensor:
    """Return indices [count] of unit vectors [m, D]: `first`, then each time the one that is least similar to all
    chosen so far (its greatest cosine with one of them is the least). None is chosen twice; ties go to the lower index.

    Raises:
        ValueError: first is not in 0 .. m - 1.
    """
    if not 0 <= first < len(unit):
        raise ValueError(f"first_seed: expected 0 to {len(unit) - 1}, got {first}")
    chosen = torch.empty(count, dtype=torch.long, device=unit.device)
    nearest = torch.full((len(unit),), -torch.inf, device=unit.device)
    latest = torch.tensor(first, device=unit.device)
    for place in range(count):
        chosen[place] = latest
        nearest = torch.maximum(nearest, (unit @ unit[latest]).float())
        nearest[latest] = torch.inf
        latest = nearest.argmin()
    return chosen


def _moved(unit: Tensor, centers: Tensor) -> Tensor:
    """Return the centers [K, D] of the points that are nearest to centers [K, D]."""
    labels, similarity = _nearest(unit, centers)
    empty = cluster_sizes(labels, len(centers)) == 0
    worst = similarity.sort(stable=True).indices[: len(centers)]
    means = _scaled(cluster_means(unit, labels, len(centers)))
    return torch.where(empty[:, None], unit[worst[empty.cumsum(0) - 1]], means)


def _nearest(unit: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return for unit vectors [m, D] the center of [K, D] with the greatest cosine, and that cosine in float32."""
    chunks = row_chunks(len(unit), len(centers), unit.element_size())
    best = [(unit[rows] @ centers.mT).float().max(-1) for rows in chunks]
    return torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])


def _without_empty(labels: Tensor, similarity: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return labels and similarities after the largest cluster gave each empty one its worst served point."""
    sizes = cluster_sizes(labels, clusters)
    for empty in (sizes == 0).nonzero().flatten().tolist():
        largest = sizes.argmax()
        point = similarity.masked_fill(labels != largest, torch.inf).argmin()
        labels, similarity = labels.index_fill(0, point, empty), similarity.index_fill(0, point, 1.0)
        sizes[largest] -= 1
        sizes[empty] = 1
    return labels, similarity


def _scaled(values: Tensor) -> Tensor:
    lengths: Tensor = values.norm(dim=-1, keepdim=True)
    return values / lengths.clamp_min(_LENGTH_FLOOR)
