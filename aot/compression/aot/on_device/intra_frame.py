"""Phase I in Triton without waits, as `intra_frame` in torch, from features to kept cells.

Every kernel reads the numbers of anchors and kept cells from the device. Sinkhorn iterations are
launched before it is known whether they are needed; those that are not return immediately.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.aot.on_device.anchors import QueuedAllocation
from aot.compression.aot.on_device.layout import QueuedLayout, block_of
from aot.compression.ops.kernels import on_device

__all__ = ["IntraWeights", "QueuedIntra", "transport_queued"]

_ROWS, _COLUMNS = 64, 64  # patches and anchors of a tile; larger ones spill registers
_WIDE = 6  # iterations with one launch each; the published rule fires after 2 to 9, mostly 2 to 4
_CELLS = 32  # kept cells


@dataclass(frozen=True, slots=True)
class IntraWeights:
    """Settings of Phase I; see `aot.compression.aot.intra_frame.transport_within_frames`.

    mass_per_patch: whether `mass` is "token".
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
    """The kept tokens; undefined for cells that are not kept.

    Attributes:
        tokens: [F, n, D].
        weights: float32 [F, n, N], the share of each patch in each token.
        iterations: int32 [].
        errors: float32 [F, tiles], terms of the marginal error of each frame's plan.
    """

    tokens: Tensor
    weights: Tensor
    iterations: Tensor
    errors: Tensor


def transport_queued(
    layout: QueuedLayout, allocation: QueuedAllocation, features: Tensor, settings: IntraWeights
) -> QueuedIntra:
    """Transport within the frames of features [F, N, D] and pool the kept cells."""
    features = features.contiguous()
    solved = _solve(layout, allocation, features, settings)
    frames, patches, width = features.shape
    cells, tiles = layout.cells, triton.cdiv(patches, _ROWS)
    weights = features.new_empty(frames, cells, patches, dtype=torch.float32)
    errors = weights.new_empty(frames, tiles)
    tokens = features.new_empty(frames, cells, width)
    with on_device(features.device):
        mixing_kernel[(frames, tiles, triton.cdiv(cells, _CELLS))](
            solved.gibbs, solved.rows, solved.column_sums, solved.nearest, solved.at,
            allocation.is_anchor, allocation.anchor_index, allocation.cell, allocation.kept, allocation.found,
            layout.tables["row_pool"], layout.tables["col_pool"], weights, errors,
            settings.lambda_intra, settings.nearest_blend, int(settings.mass_per_patch),
            patches, layout.grid[0], layout.grid[1], cells, layout.pooled[1],
            tiny=_TINY, tile_rows=_ROWS, tile_columns=32, tile_cells=_CELLS, num_warps=8, num_stages=1,
        )  # fmt: skip
        pooled_kernel[(frames, triton.cdiv(cells, 64), triton.cdiv(width, 128))](
            weights, features, tokens, allocation.kept, patches, cells, width,
            tile_cells=64, tile_width=128, tile_patches=32, num_warps=4, num_stages=3,
        )  # fmt: skip
    return QueuedIntra(tokens, weights, solved.iterations, errors)


_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class _Solved:
    """The solved transport problem.

    Attributes:
        gibbs: [F, N, N], K.
        rows: [F, N], r.
        column_sums: [F, N], K' r.
        nearest: int32 [F, N], the number of patches that are most similar to each anchor.
        at: int32 [F, N], the anchor that each patch is most similar to.
        iterations: int32 [].
    """

    gibbs: Tensor
    rows: Tensor
    column_sums: Tensor
    nearest: Tensor
    at: Tensor
    iterations: Tensor


def _solve(layout: QueuedLayout, allocation: QueuedAllocation, features: Tensor, settings: IntraWeights) -> _Solved:
    frames, patches, width = features.shape
    tiles = triton.cdiv(patches, _ROWS)
    wide = min(_WIDE, settings.max_iterations)
    late = settings.max_iterations - wide

    def singles(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=features.device)

    gibbs = singles(frames, patches, patches)
    norms = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32)
    rows, partial = singles(2, frames, patches), singles(2, frames, tiles, patches)
    change, late_change = singles(wide, frames, tiles), singles(max(late, 1), frames)
    late_rows, late_sums = singles(max(late, 1), frames, patches), singles(max(late, 1), frames, patches)
    unshift = singles(frames, patches)
    # Patches nearest to each anchor [F, N]; whether each iteration was skipped [wide].
    zeros = torch.zeros(frames * patches + wide + 2, dtype=torch.int32, device=features.device)
    nearest, stopped = zeros[: frames * patches], zeros[frames * patches :]
    at = torch.empty(frames, patches, dtype=torch.int32, device=features.device)
    iterations = torch.empty((), dtype=torch.int32, device=features.device)
    final_rows, final_sums = singles(frames, patches), singles(frames, patches)
    of_anchors = (allocation.is_anchor, allocation.anchor_index, allocation.found)
    tile = {"tile_rows": _ROWS, "tile_columns": _COLUMNS}
    blocks = {"program_block": block_of(frames * tiles, 512), "tile_block": triton.next_power_of_2(tiles)}
    with on_device(features.device):
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
        for step in range(1, wide):
            step_kernel[(frames, tiles)](
                gibbs, *of_anchors, rows, unshift, partial, change, stopped,
                settings.tolerance, step, frames, patches, tiles, tiny=_TINY, **tile, **blocks, num_warps=8,
            )  # fmt: skip
        late_kernel[(frames,)](
            gibbs, *of_anchors, rows, unshift, partial, change, stopped, late_rows, late_sums, late_change,
            settings.tolerance, wide, late, frames, patches, tiles, tiny=_TINY, **tile, **blocks, num_warps=8,
        )  # fmt: skip
        verdict_kernel[(frames,)](
            allocation.found, rows, partial, change, stopped, late_rows, late_sums, late_change,
            final_rows, final_sums, iterations, settings.tolerance, wide, late, frames, patches, tiles,
            tile=256, late_block=triton.next_power_of_2(max(late, 1)), **blocks,
        )  # fmt: skip
    return _Solved(gibbs, final_rows, final_sums, nearest, at, iterations)


@triton.jit(do_not_specialize=["patches"])
def product_kernel(
    features, anchor_index, found, products, patches, width,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Multiply every patch with the anchors of its frame, in float32.

    Only `dot` may read what the loop loads. If registers read a tile too, Triton 3.6 gives it one
    buffer less, and on Hopper the next copy overwrites it while tensor cores still read it.
    """
    anchors = tl.load(found + 1)
    frame, first_column = tl.program_id(0).to(tl.int64), tl.program_id(2) * tile_columns
    if (first_column >= anchors) & (first_column > 0):
        return
    rows, columns = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows), first_column + tl.arange(0, tile_columns)
    units = tl.arange(0, tile_width)
    features += frame * patches * width
    products += frame * patches * patches
    patch = tl.load(anchor_index + frame * patches + columns, mask=columns < anchors, other=0)
    of_rows = features + (rows[:, None] * width + units[None, :])
    of_columns = features + (patch[:, None] * width + units[None, :])
    total = tl.zeros((tile_rows, tile_columns), tl.float32)
    for first in range(0, width, tile_width):
        there = (first + units < width)[None, :]
        left = tl.load(of_rows + first, mask=(rows < patches)[:, None] & there, other=0.0)
        right = tl.load(of_columns + first, mask=(columns < anchors)[:, None] & there, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    inside = (rows < patches)[:, None] & (columns < anchors)[None, :]
    tl.store(products + (rows[:, None] * patches + columns[None, :]), total, mask=inside)


@triton.jit
def _similarity(products, norms, index, columns, anchors, in_rows, own):
    """Return cosines of patches with anchors, and the anchors' patches. own: lengths of patches."""
    patch = tl.load(index + columns, mask=columns < anchors, other=0)
    other = tl.maximum(tl.load(norms + patch, mask=columns < anchors, other=1.0), 1e-12)
    found = tl.load(products, mask=in_rows[:, None] & (columns < anchors)[None, :], other=0.0)
    return found / own[:, None] / other[None, :], patch


@triton.jit
def _cost(similarity, rows, patch, grid_rows, grid_cols, spatial):
    down = (rows // grid_cols)[:, None] - (patch // grid_cols)[None, :]
    along = (rows % grid_cols)[:, None] - (patch % grid_cols)[None, :]
    down = down.to(tl.float32) / tl.maximum(grid_rows - 1, 1)
    along = along.to(tl.float32) / tl.maximum(grid_cols - 1, 1)
    return 1 - similarity + spatial * tl.sqrt(down * down + along * along)


@triton.jit(do_not_specialize=["patches", "grid_rows", "grid_cols", "tiles"])
def gibbs_kernel(
    products, norms, is_anchor, anchor_index, found, rows_out, unshift, partial, change, nearest, nearest_at,
    spatial, epsilon, patches, grid_rows, grid_cols, tiles, tiny: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """Replace products by K = exp(-C / epsilon) and do the first iteration, from c = 1.

    Each row of C is shifted by its least cost. The nearest anchor of every patch is found too.
    """
    frame, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    anchors, at = tl.load(found + 1), frame * patches
    rows = part * tile_rows + tl.arange(0, tile_rows)
    inside = rows < patches
    source = inside & (tl.load(is_anchor + at + rows, mask=inside, other=1) == 0)
    own = tl.maximum(tl.load(norms + at + rows, mask=inside, other=1.0), 1e-12)
    products += at * patches
    offsets = rows[:, None] * patches
    index = anchor_index + at
    best, best_at = tl.full((tile_rows,), float("-inf"), tl.float32), tl.zeros((tile_rows,), tl.int32)
    least = tl.full((tile_rows,), float("inf"), tl.float32)
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = (columns < anchors)[None, :]
        similar, patch = _similarity(
            products + (offsets + columns[None, :]), norms + at, index, columns, anchors, inside, own
        )
        cost = _cost(similar, rows, patch, grid_rows, grid_cols, spatial)
        least = tl.minimum(least, tl.min(tl.where(there, cost, float("inf")), axis=1))
        similar = tl.where(there, similar, float("-inf"))
        highest = tl.max(similar, axis=1)
        here = first + tl.argmax(similar, axis=1, tie_break_left=True)
        best_at, best = tl.where(highest > best, here, best_at), tl.maximum(best, highest)
    row_sums = tl.zeros((tile_rows,), tl.float32)
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = source[:, None] & (columns < anchors)[None, :]
        similar, patch = _similarity(
            products + (offsets + columns[None, :]), norms + at, index, columns, anchors, inside, own
        )
        cost = _cost(similar, rows, patch, grid_rows, grid_cols, spatial)
        gibbs = tl.where(there, tl.exp((least[:, None] - cost) / epsilon), 0.0)
        tl.store(products + (offsets + columns[None, :]), gibbs, mask=inside[:, None] & (columns < anchors)[None, :])
        row_sums += tl.sum(gibbs, axis=1)
    best_at = tl.minimum(best_at, anchors - 1)  # NaN may have led beyond the anchors
    weight = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
    shift = tl.exp(least / epsilon)
    row = tl.where(source, weight / tl.maximum(row_sums, tiny), 0.0)
    moved = tl.where(source, tl.abs(row - 1.0 / shift) * shift, 0.0)
    tl.store(rows_out + at + rows, row, mask=inside)
    tl.store(unshift + at + rows, shift, mask=inside)
    tl.store(change + frame * tiles + part, tl.sum(moved, axis=0))
    tl.store(nearest_at + at + rows, best_at, mask=inside)
    tl.atomic_add(nearest + at + best_at, source.to(tl.int32), mask=source)
    tl.debug_barrier()
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = inside[:, None] & (columns < anchors)[None, :]
        gibbs = tl.load(products + (offsets + columns[None, :]), mask=there, other=0.0)
        sums = partial + (frame * tiles + part) * patches + columns
        tl.store(sums, tl.sum(gibbs * row[:, None], axis=0), mask=columns < anchors)


@triton.jit
def _fired(change, stopped, step, anchors, frames, patches, tiles, tolerance, block: tl.constexpr):
    """Return whether the stopping rule, which is for all frames, was met before `step`."""
    programs = tl.arange(0, block)
    moved = tl.load(change + (step - 1) * frames * tiles + programs, mask=programs < frames * tiles, other=0.0)
    sources = tl.maximum(frames * (patches - anchors), 1).to(tl.float32)
    return (tl.load(stopped + step - 1) > 0) | (tl.sum(moved, axis=0) / sources < tolerance)


@triton.jit
def _column_scale(partial, columns, anchors, tiles, patches, tiny: tl.constexpr, tile_block: tl.constexpr):
    """Return c from the column sums of all tiles; zero beyond the anchors."""
    part = tl.arange(0, tile_block)
    there = (part < tiles)[:, None] & (columns < anchors)[None, :]
    sums = tl.sum(tl.load(partial + part[:, None] * patches + columns[None, :], mask=there, other=0.0), axis=0)
    return tl.where(columns < anchors, (1.0 / anchors.to(tl.float32)) / tl.maximum(sums, tiny), 0.0)


@triton.jit(do_not_specialize=["step", "frames", "patches", "tiles"])
def step_kernel(
    gibbs, is_anchor, anchor_index, found, rows_out, unshift, partial, change, stopped,
    tolerance, step, frames, patches, tiles, tiny: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
    program_block: tl.constexpr, tile_block: tl.constexpr,
):  # fmt: skip
    """Do one more iteration if the rule was not met. The vectors of the last two are kept."""
    anchors = tl.load(found + 1)
    if _fired(change, stopped, step, anchors, frames, patches, tiles, tolerance, program_block):
        tl.store(stopped + step, 1)
        return
    frame, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at, before, now = frame * patches, (step - 1) % 2, step % 2
    rows = part * tile_rows + tl.arange(0, tile_rows)
    inside = rows < patches
    source = inside & (tl.load(is_anchor + at + rows, mask=inside, other=1) == 0)
    gibbs += at * patches
    offsets = rows[:, None] * patches
    sums_before = partial + (before * frames + frame) * tiles * patches
    row_sums = tl.zeros((tile_rows,), tl.float32)
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        scale = _column_scale(sums_before, columns, anchors, tiles, patches, tiny, tile_block)
        values = tl.load(
            gibbs + (offsets + columns[None, :]), mask=inside[:, None] & (columns < anchors)[None, :], other=0.0
        )
        row_sums += tl.sum(values * scale[None, :], axis=1)
    weight = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
    row = tl.where(source, weight / tl.maximum(row_sums, tiny), 0.0)
    old = tl.load(rows_out + before * frames * patches + at + rows, mask=inside, other=0.0)
    moved = tl.abs(row - old) * tl.load(unshift + at + rows, mask=inside, other=0.0)
    tl.store(rows_out + now * frames * patches + at + rows, row, mask=inside)
    tl.store(change + (step * frames + frame) * tiles + part, tl.sum(tl.where(source, moved, 0.0), axis=0))
    sums_now = partial + ((now * frames + frame) * tiles + part) * patches
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        values = tl.load(
            gibbs + (offsets + columns[None, :]), mask=inside[:, None] & (columns < anchors)[None, :], other=0.0
        )
        tl.store(sums_now + columns, tl.sum(values * row[:, None], axis=0), mask=columns < anchors)


@triton.jit(do_not_specialize=["wide", "late", "frames", "patches", "tiles"])
def late_kernel(
    gibbs, is_anchor, anchor_index, found, rows_out, unshift, partial, change, stopped,
    late_rows, late_sums, late_change, tolerance, wide, late, frames, patches, tiles,
    tiny: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
    program_block: tl.constexpr, tile_block: tl.constexpr,
):  # fmt: skip
    """Do all further iterations if the rule was not met, with one program per frame.

    Frames cannot see each other's changes here. So the vectors of every iteration are kept, and
    `verdict_kernel` finds the one where the rule was met.
    """
    anchors = tl.load(found + 1)
    if _fired(change, stopped, wide, anchors, frames, patches, tiles, tolerance, program_block):
        return
    frame = tl.program_id(0).to(tl.int64)
    at, before = frame * patches, (wide - 1) % 2
    weight = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
    sums_before = partial + (before * frames + frame) * tiles * patches
    old_rows = rows_out + (before * frames + frame) * patches
    late_sums += at
    late_rows += at
    gibbs += at * patches
    step = tl.zeros((), tl.int32)
    while step < late:
        new_rows = late_rows + step.to(tl.int64) * frames * patches
        new_sums = late_sums + step.to(tl.int64) * frames * patches
        change_here = tl.zeros((tile_rows,), tl.float32)
        for start in range(0, patches, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            inside = rows < patches
            source = inside & (tl.load(is_anchor + at + rows, mask=inside, other=1) == 0)
            row_sums = tl.zeros((tile_rows,), tl.float32)
            for first in range(0, anchors, tile_columns):
                columns = first + tl.arange(0, tile_columns)
                there = inside[:, None] & (columns < anchors)[None, :]
                values = tl.load(gibbs + (rows[:, None] * patches + columns[None, :]), mask=there, other=0.0)
                scale = _column_scale(sums_before, columns, anchors, tiles, patches, tiny, tile_block)
                row_sums += tl.sum(values * scale[None, :], axis=1)
            row = tl.where(source, weight / tl.maximum(row_sums, tiny), 0.0)
            moved = tl.abs(row - tl.load(old_rows + rows, mask=inside, other=0.0))
            moved = moved * tl.load(unshift + at + rows, mask=inside, other=0.0)
            change_here += tl.where(source, moved, 0.0)
            tl.store(new_rows + rows, row, mask=inside)
        tl.debug_barrier()
        for first in range(0, anchors, tile_columns):
            columns = first + tl.arange(0, tile_columns)
            sums = tl.zeros((tile_columns,), tl.float32)
            for start in range(0, patches, tile_rows):
                rows = start + tl.arange(0, tile_rows)
                there = (rows < patches)[:, None] & (columns < anchors)[None, :]
                values = tl.load(gibbs + (rows[:, None] * patches + columns[None, :]), mask=there, other=0.0)
                sums += tl.sum(values * tl.load(new_rows + rows, mask=rows < patches, other=0.0)[:, None], axis=0)
            tl.store(new_sums + columns, sums, mask=columns < anchors)
        tl.store(late_change + step * frames + frame, tl.sum(change_here, axis=0))
        tl.debug_barrier()
        sums_before, old_rows, tiles = new_sums, new_rows, tl.minimum(tiles, 1)
        step += 1


@triton.jit(do_not_specialize=["wide", "late", "frames", "patches", "tiles"])
def verdict_kernel(
    found, rows, partial, change, stopped, late_rows, late_sums, late_change, final_rows, final_sums, iterations,
    tolerance, wide, late, frames, patches, tiles,
    tile: tl.constexpr, late_block: tl.constexpr, program_block: tl.constexpr,
    tile_block: tl.constexpr,
):  # fmt: skip
    """Choose r and the column sums of the iteration where the rule was met, or of the last."""
    anchors = tl.load(found + 1)
    frame = tl.program_id(0).to(tl.int64)
    at = frame * patches
    sources = tl.maximum(frames * (patches - anchors), 1).to(tl.float32)
    done = wide
    is_wide = (late == 0) | _fired(change, stopped, wide, anchors, frames, patches, tiles, tolerance, program_block)
    for step in range(1, wide):
        done -= tl.load(stopped + step)
    chosen = tl.zeros((), tl.int32)
    if is_wide == 0:
        steps = tl.arange(0, late_block)
        moved = tl.zeros((late_block,), tl.float32)
        for other in range(0, frames):
            moved += tl.load(late_change + steps * frames + other, mask=steps < late, other=float("inf"))
        chosen = tl.min(tl.where((steps < late) & (moved / sources < tolerance), steps, late - 1), axis=0)
        done = wide + chosen + 1
    tl.store(iterations, done)
    part = tl.arange(0, tile_block)
    turn = (done - 1) % 2
    for first in range(0, patches, tile):
        place = first + tl.arange(0, tile)
        inside = place < patches
        if is_wide:
            row = tl.load(rows + turn * frames * patches + at + place, mask=inside, other=0.0)
            of_parts = partial + (turn * frames + frame) * tiles * patches + part[:, None] * patches + place[None, :]
            there = (part < tiles)[:, None] & (place < anchors)[None, :]
            sums = tl.sum(tl.load(of_parts, mask=there, other=0.0), axis=0)
        else:
            row = tl.load(late_rows + chosen.to(tl.int64) * frames * patches + at + place, mask=inside, other=0.0)
            sums = tl.load(
                late_sums + chosen.to(tl.int64) * frames * patches + at + place, mask=place < anchors, other=0.0
            )
        tl.store(final_rows + at + place, row, mask=inside)
        tl.store(final_sums + at + place, sums, mask=inside)


@triton.jit
def _pool_weight(row_pool, col_pool, cell, patch, grid_rows, grid_cols, pooled_cols, mask):
    """Return the pooling weights of patches [A] in cells [P]: [P, A]."""
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
    """Compute the weights of a tile of patches in kept cells, directly and through anchors."""
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
    mass = tl.where(mass_per_patch > 0, patches - anchors, 1).to(tl.float32)
    through = tl.zeros((tile_cells, tile_rows), tl.float32)
    row_mass = tl.zeros((tile_rows,), tl.float32)
    column_error = 0.0
    for first in range(0, anchors, tile_columns):
        columns = first + tl.arange(0, tile_columns)
        there = columns < anchors
        patch = tl.load(anchor_index + at + columns, mask=there, other=0)
        sums = tl.load(column_sums + at + columns, mask=there, other=0.0)
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
        mixed = plan * (lam * mass * moved_share)[:, None]
        is_near = (near[None, :] == columns[:, None]) & source[None, :] & there[:, None]
        mixed += tl.where(is_near, near_share[:, None], 0.0)
        is_own = (rows[None, :] == patch[:, None]) & there[:, None]
        mixed += tl.where(is_own, (moved_share + near_share)[:, None], 0.0)
        mask = in_cells[:, None] & there[None, :]
        taken = _pool_weight(row_pool, col_pool, cell, patch, grid_rows, grid_cols, pooled_cols, mask)
        through = tl.dot(taken, mixed, through, input_precision="tf32x3")  # tensor cores, as precise as float32
    mask = in_cells[:, None] & source[None, :]
    direct = _pool_weight(row_pool, col_pool, cell, rows, grid_rows, grid_cols, pooled_cols, mask)
    places = weights + (frame * cells + slot[:, None]) * patches + rows[None, :]
    tl.store(places, through + direct, mask=in_cells[:, None] & inside[None, :])
    if first_cell == 0:
        wanted = 1.0 / tl.maximum(patches - anchors, 1).to(tl.float32)
        error = tl.sum(tl.where(source, tl.abs(row_mass - wanted), 0.0), axis=0)
        tl.store(errors + frame * tl.num_programs(1) + part, error + tl.where(part == 0, column_error, 0.0))


@triton.jit(do_not_specialize=["patches", "cells"])
def pooled_kernel(
    weights, features, tokens, kept, patches, cells, width,
    tile_cells: tl.constexpr, tile_width: tl.constexpr, tile_patches: tl.constexpr,
):  # fmt: skip
    """Pool the kept tokens. A second product adds what rounding took from the weights."""
    frame, first_cell = tl.program_id(0).to(tl.int64), tl.program_id(1) * tile_cells
    count = tl.load(kept + frame)
    if first_cell >= count:
        return
    dtype: tl.constexpr = features.dtype.element_ty
    slot, units = first_cell + tl.arange(0, tile_cells), tl.program_id(2) * tile_width + tl.arange(0, tile_width)
    total = tl.zeros((tile_cells, tile_width), tl.float32)
    for first in range(0, patches, tile_patches):
        patch = first + tl.arange(0, tile_patches)
        places = weights + (frame * cells + slot[:, None]) * patches + patch[None, :]
        weight = tl.load(places, mask=(slot < count)[:, None] & (patch < patches)[None, :], other=0.0)
        there = (patch < patches)[:, None] & (units < width)[None, :]
        values = tl.load(features + (frame * patches + patch[:, None]) * width + units[None, :], mask=there, other=0.0)
        rounded = weight.to(dtype)
        total = tl.dot(rounded, values, total, input_precision="ieee")
        if dtype != tl.float32:
            total = tl.dot((weight - rounded.to(tl.float32)).to(dtype), values, total, input_precision="ieee")
    places = tokens + (frame * cells + slot[:, None]) * width + units[None, :]
    tl.store(places, total.to(dtype), mask=(slot < count)[:, None] & (units < width)[None, :])
