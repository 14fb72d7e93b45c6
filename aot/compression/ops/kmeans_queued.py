"""Run k-means in Triton; the host does not wait for the GPU.

The host queues the largest number of rounds. A flag on the device ends them: kernels that find it
return at once. A round of 23328 patches, 627 clusters and D = 3584 has 0.2 TFLOP, and
most of the 50 rounds are rarely needed.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from aot.compression.ops.farthest_kernel import warps_for
from aot.compression.ops.kernels import block_of, on_device
from aot.compression.ops.kmeans_kernels import (
    assign_kernel,
    draw_kernel,
    fill_kernel,
    means_kernel,
    members_kernel,
    verdict_kernel,
)

__all__ = ["draw_queued", "fill_queued", "means_queued", "rounds_queued"]

_WIDTH = 256  # channels of a center that one program computes
_ROWS = 16  # rows that are loaded at the same time
_LABELS = 1024  # labels that are compared at the same time
_DRAWN = 8192  # weights that are added at the same time


def draw_queued(products: Tensor, lengths: Tensor, draws: Tensor, floor: float) -> Tensor:
    """Return the k-means++ seeds, int64 [K]; see `aot.compression.ops.kmeans.seed_points`.

    Args:
        products: float32 [m, m], the products of all pairs of points.
        lengths: float32 [m], the lengths of the points.
        draws: float64 [K], uniform random numbers in [0, 1).
        floor: a small number, added to all squared distances.
    """
    points, tile = len(lengths), min(_DRAWN, block_of(len(lengths)))
    seeds = torch.empty(len(draws), dtype=torch.int64, device=lengths.device)
    distance = torch.ones_like(lengths)
    with on_device(lengths.device):
        draw_kernel[(1,)](
            products, lengths, draws, distance, seeds, points, len(draws), floor=floor, tile=tile,
            tiles=block_of(triton.cdiv(points, tile), 2), num_warps=warps_for(tile),
        )  # fmt: skip
    return seeds


def means_queued(values: Tensor, labels: Tensor, clusters: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the mean of `values` [m, D] for each label, [K, D], and the sizes, int32 [K]."""
    means = values.new_empty(clusters, values.shape[1], dtype=dtype)
    members, sizes = _no_members(labels, clusters)
    going, unused = torch.ones_like(sizes[:1]), means
    with on_device(values.device):
        members_kernel[(clusters,)](labels, members, sizes, going, len(values), tile=_LABELS)
        means_kernel[(clusters, triton.cdiv(values.shape[1], _WIDTH))](
            values.contiguous(), unused, members, sizes, going, means, unused, unused, unused, *values.shape, clusters,
            is_round=False, split=False, rows=_ROWS, tile=_WIDTH,
        )  # fmt: skip
    return means, sizes


def rounds_queued(
    points: Tensor, lengths: Tensor, seeds: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels, int64 [m], similarities, float32 [m], and the number of rounds, int32 [1].

    Args:
        points: [m, D], float32 or half precision.
        lengths: float32 [m], the lengths of the points.
        seeds: int64 [K], the points that are the first centers.
        iterations: the largest number of rounds.
        tolerance: rounds end when the Frobenius norm of the centers' change is below this.
    """
    (count, width), clusters, device = points.shape, len(seeds), points.device
    parts, split = triton.cdiv(width, _WIDTH), points.dtype != torch.float32
    labels = torch.empty(count, dtype=torch.int64, device=device)
    similarity, centers = torch.empty_like(lengths), torch.zeros(clusters, width, device=device)
    # Half-precision centers are stored as their rounded values and the rounding errors.
    halves = torch.empty(1 + split, clusters, width, dtype=points.dtype, device=device)
    squares, shifts = (torch.empty(clusters, parts, device=device) for _ in range(2))
    members, sizes = _no_members(labels, clusters)
    # The first centers are the means of one point each.
    members[:, 0] = seeds
    sizes.fill_(1)
    going, passed = torch.ones_like(sizes[:1]), torch.zeros_like(sizes[:1])
    # Float32 products need more registers than half precision on tensor cores: smaller tiles.
    side, tile_width = (128, 64) if split else (64, 32)

    def update() -> None:
        means_kernel[(clusters, parts)](
            points, lengths, members, sizes, going, centers, halves, squares, shifts, count, width, clusters,
            is_round=True, split=split, rows=_ROWS, tile=_WIDTH,
        )  # fmt: skip

    with on_device(device):
        update()
        for _ in range(iterations):
            assign_kernel[(triton.cdiv(count, side),)](
                points, lengths, halves, squares, going, labels, similarity, count, width, clusters,
                parts=parts, split=split, tile_rows=side, tile_columns=side, tile_width=tile_width, num_warps=8,
            )  # fmt: skip
            members_kernel[(clusters,)](labels, members, sizes, going, count, tile=_LABELS)
            update()
            verdict_kernel[(1,)](shifts, going, passed, clusters * parts, tolerance, tile=4096, num_warps=8)
    return labels, similarity, passed


def fill_queued(labels: Tensor, similarity: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and similarities after each empty cluster took a point of the largest."""
    labels, similarity, block = labels.clone(), similarity.clone(), block_of(len(labels))
    with on_device(labels.device):
        fill_kernel[(1,)](
            labels, similarity, sizes, len(labels), len(sizes),
            block=block, cluster_block=block_of(len(sizes)), num_warps=warps_for(block),
        )  # fmt: skip
    return labels, similarity


def _no_members(labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return room for the points of each cluster, int32 [K, m], and their numbers, int32 [K]."""
    members = torch.empty(clusters, len(labels), dtype=torch.int32, device=labels.device)
    return members, torch.empty(clusters, dtype=torch.int32, device=labels.device)
