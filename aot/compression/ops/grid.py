"""Map a frame's patch grid to saliency windows, positions and the model's pooled grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.uploads import uploaded
from aot.types import Pooling

__all__ = [
    "cells_of_patches",
    "patch_distances",
    "pool",
    "pooled_grid",
    "pooling_weights",
    "tokens_of_patches",
    "window_ids",
]


def window_ids(grid: tuple[int, int], per_side: int) -> Tensor:
    """Return the window index of each patch, int64 [N] in raster order.

    The grid is cut into `per_side` x `per_side` windows; a side of g patches is cut at
    round(i * g / per_side) (docs/algorithm.md, section 1). With g = 27 and `per_side` = 3, every
    window has 9 x 9 patches; in other cases, the sizes of windows can differ by one row or column.
    """
    rows, cols = (_axis_windows(size, per_side) for size in grid)
    return (rows[:, None] * per_side + cols[None, :]).flatten()


def _axis_windows(size: int, per_side: int) -> Tensor:
    # Edges belong to the window that begins there.
    edges = torch.tensor([round(i * size / per_side) for i in range(1, per_side)], dtype=torch.long)
    return torch.bucketize(torch.arange(size), edges, right=True)


def patch_distances(grid: tuple[int, int]) -> Tensor:
    """Return Euclidean distances between patches, float64 [N, N]; each axis spans [0, 1]."""
    # On an axis of one patch, the position is 0.
    axes = [torch.arange(size, dtype=torch.float64) / max(size - 1, 1) for size in grid]
    positions = torch.cartesian_prod(*axes)
    distances: Tensor = (positions[:, None] - positions[None]).norm(dim=-1)
    return distances


def pooled_grid(grid: tuple[int, int], pool: Pooling) -> tuple[int, int]:
    """Return (rows, columns) of the grid after pooling.

    With stride 2, a side of 27 becomes 14 (bilinear, rounded up) or 13 (average, rounded down).
    """
    if pool.kind == "bilinear":
        return math.ceil(grid[0] / pool.stride), math.ceil(grid[1] / pool.stride)
    if pool.kind == "average":
        return grid[0] // pool.stride, grid[1] // pool.stride
    return grid


def pool(values: Tensor, grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Pool `values` [F, N, D] to [F, n, D] in the same way as the model; the dtype is unchanged.

    Raises:
        ValueError: If axis 1 does not have grid[0] * grid[1] entries.
    """
    frames, patches, width = values.shape
    if patches != grid[0] * grid[1]:
        raise ValueError(f"axis 1 of values: expected {grid[0]} * {grid[1]} patches, got {patches}")
    if pooling.kind == "none":
        return values
    image = values.view(frames, *grid, width).permute(0, 3, 1, 2)  # channels-last view, no copy
    if pooling.kind == "bilinear":
        image = functional.interpolate(image, size=pooled_grid(grid, pooling), mode="bilinear")
    else:
        image = functional.avg_pool2d(image, pooling.stride)
    return image.permute(0, 2, 3, 1).reshape(frames, -1, width)


def pooling_weights(grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Return the matrix of `pool`, float64 [n, N]: row k has the patch weights of token k."""
    # Pooling is linear, so pooling the identity yields its matrix.
    patches = grid[0] * grid[1]
    return pool(torch.eye(patches, dtype=torch.float64)[None], grid, pooling)[0]


def cells_of_patches(grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Return the pooled cell that contains the center of each patch, int64 [N] in raster order.

    A center on the border of two cells belongs to the later cell. Patches that average pooling
    drops at the end of an axis belong to the last row or column.
    """
    sizes = zip(grid, pooled_grid(grid, pooling), strict=True)
    rows, cols = (_axis_cells(size, pooled, pooling) for size, pooled in sizes)
    return (rows[:, None] * pooled_grid(grid, pooling)[1] + cols[None, :]).flatten()


def tokens_of_patches(patch: Tensor, grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Map each index in `patch` (0 .. F * N - 1) to the pooled token's index (0 .. F * n - 1)."""
    # The frame index stays; the patch index within the frame becomes a cell index.
    rows, cols = pooled_grid(grid, pooling)
    cells = uploaded(cells_of_patches(grid, pooling), patch.device)
    return patch // len(cells) * (rows * cols) + cells[patch % len(cells)]


def _axis_cells(size: int, pooled: int, pooling: Pooling) -> Tensor:
    index = torch.arange(size)
    # Average pooling drops patches after the last full cell.
    if pooling.kind == "average":
        return (index // pooling.stride).clamp_max(pooled - 1)
    # floor((index + 1/2) * pooled / size) in integers: exact for a center on a border.
    return (2 * index + 1) * pooled // (2 * size)
