"""A frame's patch grid: saliency windows, positions, and the model's pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from aot.types import Pooling

__all__ = [
    "cells_of_patches",
    "patch_distances",
    "places_of_patches",
    "pool",
    "pooled_grid",
    "pooling_weights",
    "window_ids",
]


def window_ids(grid: tuple[int, int], per_side: int) -> Tensor:
    """Window number of each patch, int64 [N], raster order.

    Each side is cut at round(i * g / per_side): 9 x 9 windows for g = 27 and three per side
    (docs/algorithm.md, section 1), near-equal ones for any other grid.
    """
    rows, cols = (_axis_windows(size, per_side) for size in grid)
    return (rows[:, None] * per_side + cols[None, :]).flatten()


def _axis_windows(size: int, per_side: int) -> Tensor:
    edges = torch.tensor([round(i * size / per_side) for i in range(1, per_side)], dtype=torch.long)
    return torch.bucketize(torch.arange(size), edges, right=True)


def patch_distances(grid: tuple[int, int]) -> Tensor:
    """Euclidean distance of every patch to every other, rows and columns scaled to [0, 1]: float64 [N, N]."""
    axes = [torch.arange(size, dtype=torch.float64) / max(size - 1, 1) for size in grid]
    positions = torch.cartesian_prod(*axes)
    distances: Tensor = (positions[:, None] - positions[None]).norm(dim=-1)
    return distances


def pooled_grid(grid: tuple[int, int], pool: Pooling) -> tuple[int, int]:
    """The grid after the model's pooling, e.g. (27, 27) -> (14, 14) bilinear or (13, 13) average."""
    if pool.kind == "bilinear":
        return math.ceil(grid[0] / pool.stride), math.ceil(grid[1] / pool.stride)
    if pool.kind == "average":
        return grid[0] // pool.stride, grid[1] // pool.stride
    return grid


def pool(values: Tensor, grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Pool [F, N, D] to [F, n, D] exactly as the model does, in the dtype of `values`.

    Raises:
        ValueError: axis 1 is not grid[0] * grid[1] long.
    """
    frames, patches, width = values.shape
    if patches != grid[0] * grid[1]:
        raise ValueError(f"axis 1 of values: expected {grid[0]} * {grid[1]} patches, got {patches}")
    if pooling.kind == "none":
        return values
    image = values.view(frames, *grid, width).permute(0, 3, 1, 2)  # channels last: nothing is copied
    if pooling.kind == "bilinear":
        image = functional.interpolate(image, size=pooled_grid(grid, pooling), mode="bilinear")
    else:
        image = functional.avg_pool2d(image, pooling.stride)
    return image.permute(0, 2, 3, 1).reshape(frames, -1, width)


def pooling_weights(grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """`pool` as a matrix, float64 [n, N]: every pooled token is a weighted sum of its frame's patches."""
    patches = grid[0] * grid[1]
    return pool(torch.eye(patches, dtype=torch.float64)[None], grid, pooling)[0]


def cells_of_patches(grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """The pooled cell that contains the centre of each patch, int64 [N], both in raster order; of two that share it the
    later. Patches that pooling drops are in the last row or column.
    """
    sizes = zip(grid, pooled_grid(grid, pooling), strict=True)
    rows, cols = (_axis_cells(size, pooled, pooling) for size, pooled in sizes)
    return (rows[:, None] * pooled_grid(grid, pooling)[1] + cols[None, :]).flatten()


def places_of_patches(patch: Tensor, grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Patches (int64, of all F * N) to the pooled tokens (of all F * n) whose cells contain their centres."""
    rows, cols = pooled_grid(grid, pooling)
    cells = cells_of_patches(grid, pooling).to(patch.device)
    return patch // len(cells) * (rows * cols) + cells[patch % len(cells)]


def _axis_cells(size: int, pooled: int, pooling: Pooling) -> Tensor:
    places = torch.arange(size)
    if pooling.kind == "average":
        return (places // pooling.stride).clamp_max(pooled - 1)
    return (2 * places + 1) * pooled // (2 * size)
