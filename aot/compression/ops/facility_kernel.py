"""Run `pick_representatives` in Triton: one launch per step, in which each program has columns.

A gain and its column are one number, gain * 2^20 + (2^20 - 1 - column): the highest number has the
highest gain, and ties go to the lower column. Each program stores the highest of its columns, so
that the next launch finds the pick among few numbers. Both kinds of values are stored twice, and
launches alternate between the copies: what a launch reads, it does not write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.facility_location import ONE
from aot.compression.ops.kernels import block_of, on_device

__all__ = ["pick_queued", "step_kernel"]

_COLUMNS, _ROWS = 32, 256  # of a program's tile; the sum of a column's rows is below 2^31
_INDEX_BITS = 20
_TAKEN = -1  # below every other number


def pick_queued(table: Tensor, steps: int) -> Tensor:
    """Return the picked items, int64 [B, steps]; see `aot.compression.ops.facility_location`."""
    (batch, items, _), device = table.shape, table.device
    programs = triton.cdiv(items, _COLUMNS)
    # 1. The numbers before the first step, and the highest of each program.
    numbers = torch.full((2, batch, items), _TAKEN, dtype=torch.int64, device=device)
    columns = torch.arange(items, device=device)
    numbers[0] = ((table.sum(1) + ONE * items) << _INDEX_BITS) + ((1 << _INDEX_BITS) - 1 - columns)
    highest = torch.full((2, batch, programs), _TAKEN, dtype=torch.int64, device=device)
    padded = functional.pad(numbers[0], (0, programs * _COLUMNS - items), value=_TAKEN)
    highest[0] = padded.view(batch, programs, _COLUMNS).amax(-1)
    # 2. The steps.
    best = torch.full((2, batch, items), -ONE, dtype=torch.int32, device=device)
    picks = torch.empty(batch, steps, dtype=torch.int64, device=device)
    with on_device(device):
        for step in range(steps):
            now, then = step % 2, 1 - step % 2
            step_kernel[(programs, batch)](
                table, numbers[now], numbers[then], highest[now], highest[then], best[now], best[then], picks,
                items, programs, step, steps,
                index_bits=_INDEX_BITS, block=block_of(programs), columns=_COLUMNS, rows=_ROWS, num_warps=8,
            )  # fmt: skip
    return picks


@triton.jit(do_not_specialize=["items", "programs", "step", "steps"])
def step_kernel(
    table, numbers, next_numbers, highest, next_highest, best, next_best, picks, items, programs, step, steps,
    index_bits: tl.constexpr, block: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Find the pick of one step, and what the columns of this program gain in the next."""
    problem = tl.program_id(1).to(tl.int64)
    table += problem * items * items
    # 1. The pick, which all programs of the problem find.
    others = tl.arange(0, block)
    found = tl.load(highest + problem * programs + others, mask=others < programs, other=-1)
    last_index = (1 << index_bits) - 1
    pick = last_index - (tl.max(found, axis=0) & last_index)
    picked = table + pick * items
    # 2. What the columns lose, in the rows that the pick represents better.
    own = tl.program_id(0) * columns + tl.arange(0, columns)
    inside = own < items
    lost = tl.zeros([columns], dtype=tl.int64)
    for first in range(0, items, rows):
        row = first + tl.arange(0, rows)
        before = tl.load(best + problem * items + row, mask=row < items, other=0)
        after = tl.load(picked + row, mask=row < items, other=-1)
        better = (after > before) & (row < items)
        if tl.max(better.to(tl.int32), axis=0) > 0:
            at = row.to(tl.int64)[:, None] * items + own[None, :]
            values = tl.load(table + at, mask=better[:, None] & inside[None, :], other=-2147483648)
            clamped = tl.minimum(tl.maximum(values, before[:, None]), after[:, None])
            change = tl.where(better[:, None], clamped - before[:, None], 0)
            lost += tl.sum(change, axis=0).to(tl.int64)
    # 3. The values for the next step.
    number = tl.load(numbers + problem * items + own, mask=inside, other=-1)
    number = tl.where((own == pick) | (number < 0), -1, number - (lost << index_bits))
    tl.store(next_numbers + problem * items + own, number, mask=inside)
    tl.store(next_highest + problem * programs + tl.program_id(0), tl.max(number, axis=0))
    before = tl.load(best + problem * items + own, mask=inside, other=0)
    after = tl.load(picked + own, mask=inside, other=0)
    tl.store(next_best + problem * items + own, tl.maximum(before, after), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(picks + problem * steps + step, pick)
