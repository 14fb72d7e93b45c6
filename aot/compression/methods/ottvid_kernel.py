"""Run `representatives` of OTT-Vid in Triton: one program per frame makes all its picks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.ops.kernels import block_of, on_device

__all__ = ["pick_queued", "represent_kernel"]

_TILE = 4096  # similarities that a program reads at a time


def pick_queued(similarity: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Return the picks in their order, int64 [B, steps]; see `aot.compression.methods.ottvid`."""
    batch, items = weight.shape
    picks = torch.empty(batch, steps, dtype=torch.int64, device=weight.device)
    block = block_of(items)
    with on_device(weight.device):
        represent_kernel[(batch,)](
            similarity.contiguous(), weight.contiguous(), torch.empty_like(weight), picks, items, steps,
            block=block, rows=max(1, _TILE // block), num_warps=8,
        )  # fmt: skip
    return picks


@triton.jit(do_not_specialize=["items", "steps"])
def represent_kernel(similarity, weight, gains, picks, items, steps, block: tl.constexpr, rows: tl.constexpr):
    """Pick `steps` items of one frame; `gains` is memory for the gains of a step."""
    problem = tl.program_id(0).to(tl.int64)
    similarity += problem * items * items
    gains += problem * items
    item = tl.arange(0, block)
    inside = item < items
    share = tl.load(weight + problem * items + item, mask=inside, other=0.0)
    best = tl.zeros_like(share)
    taken = item >= items
    for step in range(steps):
        # 1. The gain of each item; similarities are symmetric, so that its row is read.
        for first in range(0, items, rows):
            row = first + tl.arange(0, rows)
            at = row[:, None] * items + item[None, :]
            values = tl.load(similarity + at, mask=(row < items)[:, None] & inside[None, :], other=0.0)
            gain = tl.sum(tl.maximum(values - best[None, :], 0.0) * share[None, :], axis=1)
            tl.store(gains + row, tl.floor(gain * 1e12 + 0.5), mask=row < items)
        tl.debug_barrier()
        # 2. The pick, and what it represents.
        gain = tl.where(taken, -1.0, tl.load(gains + item, mask=inside, other=-1.0))
        _, pick = tl.max(gain, axis=0, return_indices=True, return_indices_tie_break_left=True)
        pick = tl.minimum(pick, items - 1).to(tl.int64)  # with NaN, the index may be too high
        tl.store(picks + problem * steps + step, pick)
        taken = taken | (item == pick)
        best = tl.maximum(best, tl.load(similarity + pick * items + item, mask=inside, other=0.0))
        tl.debug_barrier()
