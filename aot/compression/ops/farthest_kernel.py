"""Run `pick_farthest` in Triton: one program per problem, whose gains stay in its registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import block_of, on_device

__all__ = ["pick_kernel", "pick_queued", "warps_for"]


def warps_for(block: int) -> int:
    """Return the number of warps of a program that holds `block` values."""
    return min(32, max(1, block // 256))


def pick_queued(gains: Tensor, table: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the gains and the indices, [B, steps]; see `aot.compression.ops.farthest`."""
    batch, items = gains.shape
    best = gains.new_empty(batch, steps)
    picks = torch.empty(batch, steps, dtype=torch.int64, device=gains.device)
    block = block_of(items)
    with on_device(gains.device):
        pick_kernel[(batch,)](
            gains.contiguous(), table.contiguous(), best, picks, items, steps, block=block, num_warps=warps_for(block)
        )
    return best, picks


@triton.jit(do_not_specialize=["items", "steps"])
def pick_kernel(gains, table, best, picks, items, steps, block: tl.constexpr):
    """Pick `steps` items of one problem."""
    problem = tl.program_id(0).to(tl.int64)
    item = tl.arange(0, block)
    inside = item < items
    gain = tl.load(gains + problem * items + item, mask=inside, other=float("-inf"))
    for step in range(steps):
        highest, pick = tl.max(gain, axis=0, return_indices=True, return_indices_tie_break_left=True)
        pick = tl.minimum(pick, items - 1).to(tl.int64)  # with NaN, the index may be too high
        tl.store(best + problem * steps + step, highest)
        tl.store(picks + problem * steps + step, pick)
        limit = tl.load(table + (problem * items + pick) * items + item, mask=inside, other=float("-inf"))
        gain = tl.minimum(gain, limit)
