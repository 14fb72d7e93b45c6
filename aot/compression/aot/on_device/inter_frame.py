"""Run Phase II in Triton for exact budgets, as `inter_frame` does in torch; the host never waits.

For each offset j, three launches process frame j after the keyframe in all clips. The plan and the
choice of distinct tokens are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.aot.on_device.anchors import QueuedAllocation
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.kernels import on_device

__all__ = ["InterWeights", "QueuedInter", "match_queued"]

_SIDE = 16  # keyframe tokens per program of `absorb_kernel`
_PARTS = 8  # parts of the features' width, one per program of `products_kernel`
_UNROLL = 4  # rows that are loaded at the same time
_MARGIN = 1e-6  # as in `inter_frame`


@dataclass(frozen=True, slots=True)
class InterWeights:
    """Hold the settings of Phase II, which `transport_within_clips` describes."""

    sigma_frames: float
    lambda_inter: float
    epsilon: float
    max_iterations: int
    tolerance: float


@dataclass(frozen=True, slots=True)
class QueuedInter:
    """Hold the result of Phase II; entries of unkept cells and of one-frame clips are undefined.

    Attributes:
        distinct: int8 [F, n], 1 for distinct tokens of later frames.
        merged: float64 [C, n, D], the keyframe tokens after absorbing other tokens.
        mass: float64 [C, n], the masses of the merged tokens.
        absorbed: float64 [L - 1, C, n, n], as in `ClipTransport`; the longest clip has L frames.
    """

    distinct: Tensor
    merged: Tensor
    mass: Tensor
    absorbed: Tensor


def match_queued(
    layout: QueuedLayout, allocation: QueuedAllocation, tokens: Tensor, settings: InterWeights
) -> QueuedInter:
    """Queue Phase II: transport `tokens`, [F, n, D], of later frames into their keyframes."""
    (frames, cells, width), clips = tokens.shape, len(layout.clips)
    longest = max(map(len, layout.clips))

    def doubles(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=tokens.device)

    # `products` and `lengths` hold sums over parts of the width: more programs run in parallel.
    absorbed = torch.zeros(longest - 1, clips, cells, cells, dtype=torch.float64, device=tokens.device)
    mass = torch.ones(clips, cells, dtype=torch.float64, device=tokens.device)
    distinct = torch.zeros(frames, cells, dtype=torch.int8, device=tokens.device)
    merged = doubles(clips, cells, width)
    products, lengths = doubles(_PARTS, clips, cells, cells), doubles(_PARTS, 2, clips, cells)
    state = doubles(clips, 5, cells)
    columns = max(16, triton.next_power_of_2(cells))
    # Float32 products need more registers than half precision on tensor cores: smaller tiles.
    side, tile_width = (32, 64) if tokens.dtype.itemsize == 2 else (16, 32)
    tiles, span = triton.cdiv(cells, side), triton.cdiv(width, _PARTS * tile_width) * tile_width
    of_clips = (layout.tables["first"], layout.tables["length"])
    with on_device(tokens.device):
        for offset in range(1, longest):
            # 1. Products with the keyframe tokens, whose values change after every frame.
            products_kernel[(clips * _PARTS, tiles, tiles)](
                tokens, merged, *of_clips, allocation.kept, products, lengths, offset, clips, cells, width, span,
                is_first=offset == 1, parts=_PARTS, side=side, tile_width=tile_width, num_warps=8,
            )  # fmt: skip
            # 2. The plan, the distinct tokens, and the mass that keyframe tokens absorb.
            match_kernel[(clips,)](
                products, lengths, *of_clips, allocation.kept, allocation.distinct, state, absorbed[offset - 1],
                distinct, mass, offset, clips, cells, settings.max_iterations,
                sigma_frames=settings.sigma_frames, lam=settings.lambda_inter,
                epsilon=settings.epsilon, tolerance=settings.tolerance, margin=_MARGIN,
                tiny=torch.finfo(torch.float64).tiny, parts=_PARTS, tile_rows=max(1, 4096 // columns),
                tile_columns=columns, num_warps=8,
            )  # fmt: skip
            # 3. The new keyframe tokens.
            absorb_kernel[(clips, triton.cdiv(cells, _SIDE), triton.cdiv(width, 128))](
                tokens, merged, *of_clips, allocation.kept, absorbed[offset - 1], offset, cells, width,
                is_first=offset == 1, side=_SIDE, tile_width=128, unroll=_UNROLL, num_warps=4,
            )  # fmt: skip
    return QueuedInter(distinct, merged, mass, absorbed)


@triton.jit
def _products(left, right, is_first: tl.constexpr):
    """Return left @ right' in float64; `right` has the dtype of `left` if `is_first`, else float64.

    Products of two half-precision numbers are exact in float32; the sum of the products over one
    tile is exact to about 1e-7.
    """
    dtype: tl.constexpr = left.dtype
    if dtype == tl.float32:
        product = tl.sum(left.to(tl.float64)[:, None, :] * right.to(tl.float64)[None, :, :], axis=2)
    elif is_first:
        product = tl.dot(left, tl.trans(right)).to(tl.float64)
    else:  # split float32 into a sum of three half-precision numbers
        high = right.to(tl.float32).to(dtype)
        rest = (right - high.to(tl.float64)).to(tl.float32)
        middle = rest.to(dtype)
        low = (rest - middle.to(tl.float32)).to(dtype)
        product = tl.dot(left, tl.trans(low))
        product = tl.dot(left, tl.trans(middle), product)
        product = tl.dot(left, tl.trans(high), product).to(tl.float64)
    return product


@triton.jit(do_not_specialize=["offset", "clips", "cells", "span"])
def products_kernel(
    tokens, merged, first_frame, length, kept, products, lengths, offset, clips, cells, width, span,
    is_first: tl.constexpr, parts: tl.constexpr, side: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Multiply keyframe tokens with the tokens `offset` frames later, over one part of the width.

    `lengths` gets the sums of squares of the tokens of both frames, over the same part.
    """
    # 1. The tokens of this program. Clips that are too short have no frame at this offset.
    clip, part = (tl.program_id(0) // parts).to(tl.int64), (tl.program_id(0) % parts).to(tl.int64)
    if tl.load(length + clip) <= offset:
        return
    key = tl.load(first_frame + clip).to(tl.int64)
    frame = key + offset
    first_row, first_column = tl.program_id(1) * side, tl.program_id(2) * side
    row_count, column_count = tl.load(kept + frame), tl.load(kept + key)
    if (first_row >= row_count) | (first_column >= column_count):
        return
    rows, columns, units = first_row + tl.arange(0, side), first_column + tl.arange(0, side), tl.arange(0, tile_width)
    of_rows = tokens + frame * cells * width + (rows[:, None] * width + units[None, :])
    column_offsets = columns[:, None] * width + units[None, :]
    if is_first:
        of_columns = tokens + key * cells * width + column_offsets
    else:
        of_columns = merged + clip * cells * width + column_offsets
    # 2. Products and squares over this part of the width.
    total = tl.zeros((side, side), tl.float64)
    row_squares, column_squares = tl.zeros((side,), tl.float64), tl.zeros((side,), tl.float64)
    for start in range(part * span, tl.minimum((part + 1) * span, width), tile_width):
        there = (start + units < width)[None, :]
        left = tl.load(of_rows + start, mask=(rows < row_count)[:, None] & there, other=0.0)
        right = tl.load(of_columns + start, mask=(columns < column_count)[:, None] & there, other=0.0)
        total += _products(left, right, is_first)
        left, right = left.to(tl.float64), right.to(tl.float64)
        row_squares += tl.sum(left * left, axis=1)
        column_squares += tl.sum(right * right, axis=1)
    # 3. Store products and squares. Only one program per row or column stores the squares.
    at = (part * clips + clip) * cells
    inside = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    tl.store(products + at * cells + (rows[:, None] * cells + columns[None, :]), total, mask=inside)
    at = (part * 2 * clips + clip) * cells
    if first_column == 0:
        tl.store(lengths + at + rows, row_squares, mask=rows < row_count)
    if first_row == 0:
        tl.store(lengths + at + clips * cells + columns, column_squares, mask=columns < column_count)


@triton.jit
def _double(value: tl.constexpr):
    """Return `value` as a float64 scalar, without rounding it to float32 first."""
    return tl.full((), value, tl.float64)


@triton.jit
def _length(lengths, index, count, step, parts: tl.constexpr, block: tl.constexpr):
    """Return token norms, float64 [block], from the sums of squares over all parts of the width."""
    total = tl.zeros((block,), tl.float64)
    for part in tl.static_range(parts):
        total += tl.load(lengths + part * step + index, mask=index < count, other=0.0)
    return tl.maximum(tl.sqrt(total), _double(1e-12))


@triton.jit(do_not_specialize=["offset", "clips", "cells", "most"])
def match_kernel(
    products, lengths, first_frame, length, kept, wanted, state, absorbed, distinct, mass,
    offset, clips, cells, most,
    sigma_frames: tl.constexpr, lam: tl.constexpr,
    epsilon: tl.constexpr, tolerance: tl.constexpr, margin: tl.constexpr, tiny: tl.constexpr,
    parts: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    """Find the distinct tokens and absorbed mass of one clip, `offset` frames after the keyframe.

    `absorbed` stores first the costs, then K, then the shares p, at last the absorbed mass. `state`
    stores vectors with one entry per token of the frame.
    """
    clip = tl.program_id(0).to(tl.int64)
    if tl.load(length + clip) <= offset:
        return
    key = tl.load(first_frame + clip).to(tl.int64)
    frame = key + offset
    row_count, column_count = tl.load(kept + frame), tl.load(kept + key)
    columns = tl.arange(0, tile_columns)
    in_columns = columns < column_count
    matrix = absorbed + clip * cells * cells
    unshift, vector = state + clip * 5 * cells, state + (clip * 5 + 1) * cells
    best = state + (clip * 5 + 2) * cells
    lengths += clip * cells
    # Columns are keyframe tokens; rows are tokens of this frame.
    of_columns = _length(lengths + clips * cells, columns, column_count, 2 * clips * cells, parts, tile_columns)
    # 1. Costs, and the lowest cost.
    least = tl.full((tile_rows,), float("inf"), tl.float64)
    for start in range(0, row_count, tile_rows):
        rows = start + tl.arange(0, tile_rows)
        inside = (rows < row_count)[:, None] & in_columns[None, :]
        offsets = rows[:, None] * cells + columns[None, :]
        cosine = tl.zeros((tile_rows, tile_columns), tl.float64)
        for part in tl.static_range(parts):
            at = products + (part * clips + clip) * cells * cells
            cosine += tl.load(at + offsets, mask=inside, other=0.0)
        of_rows = _length(lengths, rows, row_count, 2 * clips * cells, parts, tile_rows)
        cosine = cosine / of_rows[:, None] / of_columns[None, :]
        cost = 1 - tl.minimum(tl.maximum(cosine, _double(margin - 1)), _double(1 - margin))
        tl.store(matrix + offsets, cost, mask=inside)
        least = tl.minimum(least, tl.min(tl.where(inside, cost, float("inf")), axis=1))
    shift = tl.min(least, axis=0)
    away = offset.to(tl.float64)  # as in `aot.compression.ops.similarity.temporal_weight`
    weight = 1 - tl.exp(-away * away / _double(2 * sigma_frames * sigma_frames + 1e-9))
    tl.debug_barrier()
    # 2. K, with each row of costs shifted by its lowest cost.
    row_weight = 1.0 / tl.maximum(row_count, 1).to(tl.float64)
    column_weight = 1.0 / tl.maximum(column_count, 1).to(tl.float64)
    for start in range(0, row_count, tile_rows):
        rows = start + tl.arange(0, tile_rows)
        inside = (rows < row_count)[:, None] & in_columns[None, :]
        entries = matrix + rows[:, None] * cells + columns[None, :]
        cost = (tl.load(entries, mask=inside, other=float("inf")) - shift) * weight
        lowest = tl.min(tl.where(inside, cost, float("inf")), axis=1)
        lowest = tl.where(rows < row_count, lowest, 0.0)
        tl.store(entries, tl.where(inside, tl.exp((lowest[:, None] - cost) / _double(epsilon)), 0.0), mask=inside)
        scale = tl.exp(lowest / _double(epsilon))
        tl.store(unshift + rows, scale, mask=rows < row_count)
        tl.store(vector + rows, 1.0 / scale, mask=rows < row_count)
    tl.debug_barrier()
    # 3. Sinkhorn's iterations.
    c = tl.where(in_columns, 1.0, 0.0).to(tl.float64)
    step = tl.zeros((), tl.int32)
    going = row_count > 0
    while going & (step < most):
        # One pass over K gives r and, with the new r, the column sums.
        sums = tl.zeros((tile_columns,), tl.float64)
        change = tl.zeros((tile_rows,), tl.float64)
        for start in range(0, row_count, tile_rows):
            rows = start + tl.arange(0, tile_rows)
            in_rows = rows < row_count
            entries = matrix + rows[:, None] * cells + columns[None, :]
            gibbs = tl.load(entries, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
            old = tl.load(vector + rows, mask=in_rows, other=0.0)
            row = tl.where(in_rows, row_weight / tl.maximum(tl.sum(gibbs * c[None, :], axis=1), _double(tiny)), 0.0)
            change += tl.abs(row - old) * tl.load(unshift + rows, mask=in_rows, other=0.0)
            tl.store(vector + rows, row, mask=in_rows)
            sums += tl.sum(gibbs * row[:, None], axis=0)
        c = tl.where(in_columns, column_weight / tl.maximum(sums, _double(tiny)), 0.0)
        going = (tl.sum(change, axis=0) / row_count < _double(tolerance)) == 0
        step += 1
        tl.debug_barrier()
    # 4. Rows of the plan as shares, and the best share of each token.
    for start in range(0, row_count, tile_rows):
        rows = start + tl.arange(0, tile_rows)
        in_rows = rows < row_count
        entries = matrix + rows[:, None] * cells + columns[None, :]
        inside = in_rows[:, None] & in_columns[None, :]
        row = tl.load(vector + rows, mask=in_rows, other=0.0)
        plan = row[:, None] * tl.load(entries, mask=inside, other=0.0) * c[None, :]
        share = plan / tl.maximum(tl.sum(plan, axis=1), _double(1e-9))[:, None]
        tl.store(entries, share, mask=inside)
        # Products round equal rows differently, but equal tokens must tie: see `DistinctRule`.
        tl.store(best + rows, (tl.max(share, axis=1) * _double(1e12) + 0.5).to(tl.int64).to(tl.float64), mask=in_rows)
    tl.debug_barrier()
    # 5. The tokens with the smallest best shares are distinct; keyframe tokens absorb the others.
    others = tl.arange(0, tile_columns)  # indices of the frame's tokens
    other_best = tl.load(best + others, mask=others < row_count, other=float("inf"))
    changes = tl.load(wanted + frame)
    taken = tl.zeros((tile_columns,), tl.float64)
    for start in range(0, row_count, tile_rows):
        rows = start + tl.arange(0, tile_rows)
        in_rows = rows < row_count
        own = tl.load(best + rows, mask=in_rows, other=0.0)
        tied = (other_best[None, :] == own[:, None]) & (others[None, :] < rows[:, None])
        ahead = (others < row_count)[None, :] & ((other_best[None, :] < own[:, None]) | tied)
        is_distinct = in_rows & (tl.sum(ahead.to(tl.int32), axis=1) < changes)
        tl.store(distinct + frame * cells + rows, is_distinct.to(tl.int8), mask=in_rows)
        inside = in_rows[:, None] & in_columns[None, :]
        entries = matrix + rows[:, None] * cells + columns[None, :]
        share = tl.where(is_distinct[:, None], 0.0, tl.load(entries, mask=inside, other=0.0) * _double(lam))
        tl.store(entries, share, mask=inside)
        taken += tl.sum(share, axis=0)
    # The mass of a keyframe token adds up over all later frames.
    total = mass + clip * cells + columns
    tl.store(total, tl.load(total, mask=in_columns, other=0.0) + taken, mask=in_columns)


@triton.jit(do_not_specialize=["offset", "cells"])
def absorb_kernel(
    tokens, merged, first_frame, length, kept, absorbed, offset, cells, width,
    is_first: tl.constexpr, side: tl.constexpr, tile_width: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    """Replace keyframe tokens y by (y + sum_x a[x, y] x) / (1 + sum_x a[x, y]), a = `absorbed`."""
    clip = tl.program_id(0).to(tl.int64)
    if tl.load(length + clip) <= offset:
        return
    key = tl.load(first_frame + clip).to(tl.int64)
    frame = key + offset
    row_count, column_count = tl.load(kept + frame), tl.load(kept + key)
    # 1. The keyframe tokens of this program, over a part of the width.
    columns = tl.program_id(1) * side + tl.arange(0, side)
    if tl.program_id(1) * side >= column_count:
        return
    units = tl.program_id(2) * tile_width + tl.arange(0, tile_width)
    inside = (columns < column_count)[:, None] & (units < width)[None, :]
    own = merged + (clip * cells + columns[:, None]) * width + units[None, :]
    if is_first:
        start = tokens + (key * cells + columns[:, None]) * width + units[None, :]
        total = tl.load(start, mask=inside, other=0.0).to(tl.float64)
    else:
        total = tl.load(own, mask=inside, other=0.0)
    # 2. Numerator and denominator, `unroll` rows at a time to make their loads overlap.
    mass = tl.full((side,), 1.0, tl.float64)
    for first_row in range(0, row_count, unroll):
        for number in tl.static_range(unroll):
            row = first_row + number
            taken = (columns < column_count) & (columns * 0 + row < row_count)
            there = (units < width) & (units * 0 + row < row_count)
            share = tl.load(absorbed + (clip * cells + row) * cells + columns, mask=taken, other=0.0)
            values = tl.load(tokens + (frame * cells + row) * width + units, mask=there, other=0.0)
            total += share[:, None] * values.to(tl.float64)[None, :]
            mass += share
    # 3. Store the new values, which the next offset uses.
    tl.store(own, total / mass[:, None], mask=inside)
