"""Run Phase I and pooling in Triton, as `intra_frame` does in torch; the host never waits.

Every kernel reads the numbers of anchors and kept cells from the device. Sinkhorn iterations are
launched before it is known whether they are needed; unneeded iterations return immediately.
`intra_cost` and `intra_sinkhorn` have the kernels that solve the transport problem. The kernels
that apply the plan and pool are in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.aot.on_device.anchors import QueuedAllocation
from aot.compression.aot.on_device.intra_cost import gibbs_kernel, product_kernel
from aot.compression.aot.on_device.intra_sinkhorn import late_kernel, step_kernel, verdict_kernel
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.kernels import block_of, on_device

__all__ = ["IntraWeights", "QueuedIntra", "transport_queued"]

_ROWS, _COLUMNS = 64, 64  # patches and anchors of a tile; larger tiles spill registers
_WIDE = 6  # iterations with one launch each; the published rule needs 2 to 9, mostly 2 to 4
_CELLS = 32  # kept cells of a tile
_TINY = torch.finfo(torch.float32).tiny  # lower bound of denominators


@dataclass(frozen=True, slots=True)
class IntraWeights:
    """Hold the settings of Phase I, which `transport_within_frames` describes.

    `mass_per_patch` is true if the setting `mass` is "token".
    """

    spatial_weight: float
    nearest_blend: float
    lambda_intra: float
    mass_per_patch: bool
    epsilon: float
    max_iterations: int
    tolerance: float


@dataclass(frozen=True, slots=True)
class QueuedIntra:
    """Hold the kept tokens after Phase I; entries beyond a frame's kept cells are undefined.

    Attributes:
        tokens: [F, n, D], the kept cells of each frame, pooled after transport.
        weights: float32 [F, n, N], the weight of each patch in each token.
        iterations: int32 [], the number of Sinkhorn iterations.
        errors: float32 [F, tiles]; the sum of a row is the marginal error of the frame's plan.
    """

    tokens: Tensor
    weights: Tensor
    iterations: Tensor
    errors: Tensor


def transport_queued(
    layout: QueuedLayout, allocation: QueuedAllocation, features: Tensor, settings: IntraWeights
) -> QueuedIntra:
    """Queue Phase I for `features`, [F, N, D], and the pooling of the kept cells."""
    # 1. The plan T, as K, r and column sums, which determine c.
    features = features.contiguous()
    solved = _solve(layout, allocation, features, settings)
    frames, patches, width = features.shape
    cells, tiles = layout.cells, triton.cdiv(patches, _ROWS)
    weights = features.new_empty(frames, cells, patches, dtype=torch.float32)
    errors = weights.new_empty(frames, tiles)
    tokens = features.new_empty(frames, cells, width)
    with on_device(features.device):
        # 2. The weights of patches in kept cells, after transport and pooling.
        mixing_kernel[(frames, tiles, triton.cdiv(cells, _CELLS))](
            solved.gibbs, solved.rows, solved.column_sums, solved.nearest, solved.at,
            allocation.is_anchor, allocation.anchor_index, allocation.cell, allocation.kept, allocation.found,
            layout.tables["row_pool"], layout.tables["col_pool"], weights, errors,
            settings.lambda_intra, settings.nearest_blend, int(settings.mass_per_patch),
            patches, layout.grid[0], layout.grid[1], cells, layout.pooled[1],
            tiny=_TINY, tile_rows=_ROWS, tile_columns=32, tile_cells=_CELLS, num_warps=8, num_stages=1,
        )  # fmt: skip
        # 3. The kept cells: weights times features.
        pooled_kernel[(frames, triton.cdiv(cells, 64), triton.cdiv(width, 128))](
            weights, features, tokens, allocation.kept, patches, cells, width,
            tile_cells=64, tile_width=128, tile_patches=32, num_warps=4, num_stages=3,
        )  # fmt: skip
    return QueuedIntra(tokens, weights, solved.iterations, errors)


@dataclass(frozen=True, slots=True)
class _Solved:
    """Hold the solved transport problems of all frames.

    Attributes:
        gibbs: [F, N, N], the kernel matrix K.
        rows: [F, N], the row factors r, one per patch.
        column_sums: [F, N], K' r, one per anchor.
        nearest: int32 [F, N], for each anchor, the number of patches that `at` maps to the anchor.
        at: int32 [F, N], for each patch, the position of the most similar anchor in `anchor_index`.
        iterations: int32 [], the number of iterations.
    """

    gibbs: Tensor
    rows: Tensor
    column_sums: Tensor
    nearest: Tensor
    at: Tensor
    iterations: Tensor


def _solve(layout: QueuedLayout, allocation: QueuedAllocation, features: Tensor, settings: IntraWeights) -> _Solved:
    """Queue the solution of the transport problems of all frames."""
    frames, patches, width = features.shape
    tiles = triton.cdiv(patches, _ROWS)
    wide = min(_WIDE, settings.max_iterations)
    late = settings.max_iterations - wide

    # 1. Allocate tensors. `rows` and `partial` hold the last two iterations.
    def singles(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=features.device)

    gibbs = singles(frames, patches, patches)
    norms = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32)
    rows, partial = singles(2, frames, patches), singles(2, frames, tiles, patches)
    change, late_change = singles(wide, frames, tiles), singles(max(late, 1), frames)
    late_rows, late_sums = singles(max(late, 1), frames, patches), singles(max(late, 1), frames, patches)
    unshift = singles(frames, patches)
    # The number of patches nearest to each anchor [F, N]; whether each iteration was skipped.
    zeros = torch.zeros(frames * patches + wide + 2, dtype=torch.int32, device=features.device)
    nearest, stopped = zeros[: frames * patches], zeros[frames * patches :]
    at = torch.empty(frames, patches, dtype=torch.int32, device=features.device)
    iterations = torch.empty((), dtype=torch.int32, device=features.device)
    final_rows, final_sums = singles(frames, patches), singles(frames, patches)
    of_anchors = (allocation.is_anchor, allocation.anchor_index, allocation.found)
    tile = {"tile_rows": _ROWS, "tile_columns": _COLUMNS}
    blocks = {"program_block": block_of(frames * tiles, 512), "tile_block": triton.next_power_of_2(tiles)}
    with on_device(features.device):
        # 2. Cost and kernel matrix, with iteration 0.
        side = 128 if features.dtype.itemsize == 2 else 64
        product_kernel[(frames, triton.cdiv(patches, side), triton.cdiv(patches, side))](
            features, allocation.anchor_index, allocation.found, gibbs, patches, width,
            tile_rows=side, tile_columns=side, tile_width=side // 2, num_warps=8, num_stages=3,
        )  # fmt: skip
        gibbs_kernel[(frames, tiles)](
            gibbs, norms, *of_anchors, rows, unshift, partial, change, nearest, at,
            settings.spatial_weight, settings.epsilon, patches, layout.grid[0], layout.grid[1], tiles,
            tiny=_TINY, **tile, num_warps=8,
        )  # fmt: skip
        # 3. The first iterations with one launch each, then all others in one launch.
        for step in range(1, wide):
            step_kernel[(frames, tiles)](
                gibbs, *of_anchors, rows, unshift, partial, change, stopped,
                settings.tolerance, step, frames, patches, tiles, tiny=_TINY, **tile, **blocks, num_warps=8,
            )  # fmt: skip
        late_kernel[(frames,)](
            gibbs, *of_anchors, rows, unshift, partial, change, stopped, late_rows, late_sums, late_change,
            settings.tolerance, wide, late, frames, patches, tiles, tiny=_TINY, **tile, **blocks, num_warps=8,
        )  # fmt: skip
        # 4. Find the iteration at which the stopping rule was met.
        verdict_kernel[(frames,)](
            allocation.found, rows, partial, change, stopped, late_rows, late_sums, late_change,
            final_rows, final_sums, iterations, settings.tolerance, wide, late, frames, patches, tiles,
            tile=256, late_block=triton.next_power_of_2(max(late, 1)), **blocks,
        )  # fmt: skip
    return _Solved(gibbs, final_rows, final_sums, nearest, at, iterations)


@triton.jit
def _pool_weight(row_pool, col_pool, cell, patch, grid_rows, grid_cols, pooled_cols, mask):
    """Return the pooling weights [P, A] of patches [A] in cells [P]."""
    of_row = tl.load(
        row_pool + (cell // pooled_cols)[:, None] * grid_rows + (patch // grid_cols)[None, :], mask=mask, other=0.0
    )
    of_col = tl.load(
        col_pool + (cell % pooled_cols)[:, None] * grid_cols + (patch % grid_cols)[None, :], mask=mask, other=0.0
    )
    return of_row * of_col


@triton.jit(do_not_specialize=["mass_per_patch", "patches", "grid_rows", "grid_cols", "cells", "pooled_cols"])
def mixing_kernel(
    gibbs, rows_in, column_sums, nearest, nearest_at, is_anchor, anchor_index, cell_index, kept, found,
    row_pool, col_pool, weights, errors, lam, blend, mass_per_patch, patches, grid_rows, grid_cols, cells, pooled_cols,
    tiny: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_cells: tl.constexpr,
):  # fmt: skip
    """Compute the weights of patches in kept cells: directly by pooling, plus through anchors."""
    # 1. The patches and kept cells of this program.
    frame, part, first_cell = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * tile_cells
    count = tl.load(kept + frame)
    if first_cell >= count:
        return
    anchors, at = tl.load(found + 1), frame * patches
    rows = part * tile_rows + tl.arange(0, tile_rows)
    inside = rows < patches
    anchor = tl.load(is_anchor + at + rows, mask=inside, other=0) > 0
    source = inside & (anchor == 0)
    near = tl.load(nearest_at + at + rows, mask=inside, other=0)
    r = tl.load(rows_in + at + rows, mask=inside, other=0.0)
    slot = first_cell + tl.arange(0, tile_cells)
    cell = tl.load(cell_index + frame * cells + slot, mask=slot < count, other=0)
    in_cells = slot < count
    # 2. Through anchors: anchor's weight in the cell times patch's weight in the new anchor.
    mass = tl.where(mass_per_patch > 0, patches - anchors, 1).to(tl.float32)
    through = tl.zeros((tile_cells, tile_rows), tl.float32)
    row_mass = tl.zeros((tile_rows,), tl.float32)
    column_error = 0.0
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = columns < anchors
        patch = tl.load(anchor_index + at + columns, mask=there, other=0)
        sums = tl.load(column_sums + at + columns, mask=there, other=0.0)
        # Shares of ot_a and near_a per unit of mass, as in `_blend`.
        weight = 1.0 / anchors.to(tl.float32)
        c = weight / tl.maximum(sums, tiny)
        took = tl.load(nearest + at + columns, mask=there, other=0).to(tl.float32)
        moved_share = (1 - blend) / (1 + c * sums * lam * mass)
        near_share = blend / (1 + took)
        plan = tl.load(
            gibbs + (at + rows[None, :]) * patches + columns[:, None],
            mask=there[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        plan = tl.where(there[:, None], plan * r[None, :] * c[:, None], 0.0)
        row_mass += tl.sum(plan, axis=0)
        column_error += tl.sum(tl.where(there, tl.abs(c * sums - weight), 0.0), axis=0)
        # The new anchor: transported patches, nearest patches, and the anchor itself.
        mixed = plan * (lam * mass * moved_share)[:, None]
        is_near = (near[None, :] == columns[:, None]) & source[None, :] & there[:, None]
        mixed += tl.where(is_near, near_share[:, None], 0.0)
        is_own = (rows[None, :] == patch[:, None]) & there[:, None]
        mixed += tl.where(is_own, (moved_share + near_share)[:, None], 0.0)
        mask = in_cells[:, None] & there[None, :]
        taken = _pool_weight(row_pool, col_pool, cell, patch, grid_rows, grid_cols, pooled_cols, mask)
        through = tl.dot(taken, mixed, through, input_precision="tf32x3")  # tensor cores, as precise as float32
    # 3. Direct: patches that are not anchors keep their values.
    mask = in_cells[:, None] & source[None, :]
    direct = _pool_weight(row_pool, col_pool, cell, rows, grid_rows, grid_cols, pooled_cols, mask)
    entries = weights + (frame * cells + slot[:, None]) * patches + rows[None, :]
    tl.store(entries, through + direct, mask=in_cells[:, None] & inside[None, :])
    # 4. The marginal error of the plan, once per tile of patches.
    if first_cell == 0:
        wanted = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
        error = tl.sum(tl.where(source, tl.abs(row_mass - wanted), 0.0), axis=0)
        tl.store(errors + frame * tl.num_programs(1) + part, error + tl.where(part == 0, column_error, 0.0))


@triton.jit(do_not_specialize=["patches", "cells"])
def pooled_kernel(
    weights, features, tokens, kept, patches, cells, width,
    tile_cells: tl.constexpr, tile_width: tl.constexpr, tile_patches: tl.constexpr,
):  # fmt: skip
    """Compute the kept tokens, weights @ features; a second product adds what rounding removed."""
    frame, first_cell = tl.program_id(0).to(tl.int64), tl.program_id(1) * tile_cells
    count = tl.load(kept + frame)
    if first_cell >= count:
        return
    dtype: tl.constexpr = features.dtype.element_ty
    slot, units = first_cell + tl.arange(0, tile_cells), tl.program_id(2) * tile_width + tl.arange(0, tile_width)
    total = tl.zeros((tile_cells, tile_width), tl.float32)
    for first in range(0, patches, tile_patches):
        patch = first + tl.arange(0, tile_patches)
        entries = weights + (frame * cells + slot[:, None]) * patches + patch[None, :]
        weight = tl.load(entries, mask=(slot < count)[:, None] & (patch < patches)[None, :], other=0.0)
        there = (patch < patches)[:, None] & (units < width)[None, :]
        values = tl.load(features + (frame * patches + patch[:, None]) * width + units[None, :], mask=there, other=0.0)
        # Split the weight into two numbers in the features' dtype: rounded, and rounding error.
        rounded = weight.to(dtype)
        total = tl.dot(rounded, values, total, input_precision="ieee")
        if dtype != tl.float32:
            total = tl.dot((weight - rounded.to(tl.float32)).to(dtype), values, total, input_precision="ieee")
    entries = tokens + (frame * cells + slot[:, None]) * width + units[None, :]
    tl.store(entries, total.to(dtype), mask=(slot < count)[:, None] & (units < width)[None, :])
