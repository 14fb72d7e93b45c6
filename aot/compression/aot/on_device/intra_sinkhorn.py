"""Run the second half of Phase I in Triton: Sinkhorn's iterations after the first.

`intra_frame` launches these kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["late_kernel", "step_kernel", "verdict_kernel"]


@triton.jit
def _fired(change, stopped, step, anchors, frames, patches, tiles, tolerance, block: tl.constexpr):
    """Return whether the stopping rule (mean over all frames) was met before iteration `step`."""
    programs = tl.arange(0, block)
    moved = tl.load(change + (step - 1) * frames * tiles + programs, mask=programs < frames * tiles, other=0.0)
    sources = tl.maximum(frames * (patches - anchors), 1).to(tl.float32)
    return (tl.load(stopped + step - 1) > 0) | (tl.sum(moved, axis=0) / sources < tolerance)


@triton.jit
def _column_scale(partial, columns, anchors, tiles, patches, tiny: tl.constexpr, tile_block: tl.constexpr):
    """Return the column factors c from the column sums of all tiles; 0 beyond the last anchor."""
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
    """Run iteration `step` if the stopping rule was not met; the last two states stay stored."""
    anchors = tl.load(found + 1)
    if _fired(change, stopped, step, anchors, frames, patches, tiles, tolerance, program_block):
        tl.store(stopped + step, 1)
        return
    frame, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    # Vectors alternate between two halves of their tensors.
    at, before, now = frame * patches, (step - 1) % 2, step % 2
    rows = part * tile_rows + tl.arange(0, tile_rows)
    inside = rows < patches
    source = inside & (tl.load(is_anchor + at + rows, mask=inside, other=1) == 0)
    gibbs += at * patches
    offsets = rows[:, None] * patches
    # 1. r = row / (K c), with c from the column sums of the previous iteration.
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
    # 2. The change of r, for the stopping rule.
    old = tl.load(rows_out + before * frames * patches + at + rows, mask=inside, other=0.0)
    moved = tl.abs(row - old) * tl.load(unshift + at + rows, mask=inside, other=0.0)
    tl.store(rows_out + now * frames * patches + at + rows, row, mask=inside)
    tl.store(change + (step * frames + frame) * tiles + part, tl.sum(tl.where(source, moved, 0.0), axis=0))
    # 3. The column sums of this tile with the new r.
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
    """Run `late` more iterations if the stopping rule was not met, with one program per frame.

    A program does not know the changes of other frames. So r and the column sums of all iterations
    are stored, and `verdict_kernel` finds the iteration at which the rule was met.
    """
    anchors = tl.load(found + 1)
    if _fired(change, stopped, wide, anchors, frames, patches, tiles, tolerance, program_block):
        return
    # 1. The state after the iterations that had one launch each.
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
        # 2. r = row / (K c), and the change of r.
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
        # 3. The column sums with the new r.
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
        # These sums are over all tiles: the next iteration reads one part instead of `tiles`.
        sums_before, old_rows, tiles = new_sums, new_rows, tl.minimum(tiles, 1)
        step += 1


@triton.jit(do_not_specialize=["wide", "late", "frames", "patches", "tiles"])
def verdict_kernel(
    found, rows, partial, change, stopped, late_rows, late_sums, late_change, final_rows, final_sums, iterations,
    tolerance, wide, late, frames, patches, tiles,
    tile: tl.constexpr, late_block: tl.constexpr, program_block: tl.constexpr,
    tile_block: tl.constexpr,
):  # fmt: skip
    """Copy r and column sums of the first iteration that met the rule, or else of the last one."""
    # 1. The number of iterations, if the rule was met within the first `wide` iterations.
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
        # 2. The first later iteration where the mean over all frames is below the tolerance.
        steps = tl.arange(0, late_block)
        moved = tl.zeros((late_block,), tl.float32)
        for other in range(0, frames):
            moved += tl.load(late_change + steps * frames + other, mask=steps < late, other=float("inf"))
        chosen = tl.min(tl.where((steps < late) & (moved / sources < tolerance), steps, late - 1), axis=0)
        done = wide + chosen + 1
    tl.store(iterations, done)
    # 3. Copy r and the column sums of this iteration.
    part = tl.arange(0, tile_block)
    state = (done - 1) % 2
    for first in range(0, patches, tile):
        index = first + tl.arange(0, tile)
        inside = index < patches
        if is_wide:
            row = tl.load(rows + state * frames * patches + at + index, mask=inside, other=0.0)
            of_parts = partial + (state * frames + frame) * tiles * patches + part[:, None] * patches + index[None, :]
            there = (part < tiles)[:, None] & (index < anchors)[None, :]
            sums = tl.sum(tl.load(of_parts, mask=there, other=0.0), axis=0)
        else:
            row = tl.load(late_rows + chosen.to(tl.int64) * frames * patches + at + index, mask=inside, other=0.0)
            sums = tl.load(
                late_sums + chosen.to(tl.int64) * frames * patches + at + index, mask=index < anchors, other=0.0
            )
        tl.store(final_rows + at + index, row, mask=inside)
        tl.store(final_sums + at + index, sums, mask=inside)
