"""Sort the kept tokens into reading order with Triton, as `token_order` does with torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.aot.on_device.anchors import QueuedAllocation
from aot.compression.aot.on_device.inter_frame import QueuedInter
from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.kernels import block_of, on_device
from aot.types import Role

__all__ = ["QueuedEmission", "emit_queued"]


@dataclass(frozen=True, slots=True)
class QueuedEmission:
    """Hold the kept tokens: fields named as in `CompressedTokens`, and the origin of each token.

    Attributes:
        slot: int32 [K], the index of each token among the kept cells of its frame.
        clip: int32 [K], the clip index of a merged token; -1 for other tokens.
    """

    features: Tensor
    frame: Tensor
    row: Tensor
    col: Tensor
    role: Tensor
    mass: Tensor
    slot: Tensor
    clip: Tensor


def emit_queued(
    layout: QueuedLayout,
    allocation: QueuedAllocation,
    tokens: Tensor,
    moved: QueuedInter,
    budget: int,
    merged_only: bool,
) -> QueuedEmission:
    """Return exactly `budget` tokens in reading order.

    Args:
        layout: sizes and tables of the video.
        allocation: kept cells and numbers of distinct tokens.
        tokens: [F, n, D], the pooled tokens.
        moved: the result of Phase II.
        budget: the number of tokens.
        merged_only: whether merged tokens replace the original tokens of a keyframe.
    """
    (frames, cells, width), device, table = tokens.shape, tokens.device, layout.tables
    frame, row, col, slot, clip = (torch.empty(budget, dtype=torch.int32, device=device) for _ in range(5))
    role = torch.empty(budget, dtype=torch.uint8, device=device)
    mass = torch.empty(budget, dtype=torch.float32, device=device)
    features = tokens.new_empty(budget, width)
    with on_device(device):
        # 1. Two programs per frame: one for original tokens, one for merged tokens.
        order_kernel[(frames, 2)](
            table["clip"], table["keyframe"], table["copies"], table["several"],
            allocation.cell, allocation.kept, allocation.distinct, moved.distinct, moved.mass,
            frame, row, col, role, mass, slot, clip, frames, cells, layout.pooled[1], budget,
            merged_only=int(merged_only), as_kept=int(Role.KEPT), as_keyframe=int(Role.KEYFRAME),
            as_distinct=int(Role.DISTINCT), as_merged=int(Role.MERGED),
            frame_block=block_of(frames), cell_block=triton.next_power_of_2(cells),
        )  # fmt: skip
        # 2. Copy the features with one program per token.
        copy_kernel[(budget,)](
            tokens, moved.merged, frame, slot, clip, features, cells, width,
            block=min(4096, triton.next_power_of_2(width)),
        )  # fmt: skip
    return QueuedEmission(features, frame, row, col, role, mass, slot, clip)


@triton.jit(do_not_specialize=["frames", "cells", "pooled_cols", "budget"])
def order_kernel(
    clip_of, keyframe, copies, several, cell_index, kept, wanted, distinct, merged_mass,
    frame_out, row_out, col_out, role_out, mass_out, slot_out, clip_out, frames, cells, pooled_cols, budget,
    merged_only: tl.constexpr, as_kept: tl.constexpr, as_keyframe: tl.constexpr, as_distinct: tl.constexpr,
    as_merged: tl.constexpr, frame_block: tl.constexpr, cell_block: tl.constexpr,
):  # fmt: skip
    """Write the original tokens of a frame or, if program_id(1) is 1, its merged tokens."""
    # 1. The number of original and merged tokens that every frame emits.
    own, is_merged = tl.program_id(0), tl.program_id(1)
    frame = tl.arange(0, frame_block)
    inside = frame < frames
    count = tl.load(kept + frame, mask=inside, other=0)
    is_key = tl.load(keyframe + frame, mask=inside, other=0) > 0
    of_clip = tl.load(clip_of + frame, mask=inside, other=frames)
    has_several = tl.load(several + frame, mask=inside, other=0) > 0
    twice = tl.load(copies + frame, mask=inside, other=1) == 2
    instead = has_several & (merged_only == 1)
    merged_count = tl.where(is_key & has_several & (instead | twice), count, 0)
    own_count = tl.where(is_key, tl.where(instead, 0, count), tl.load(wanted + frame, mask=inside, other=0))
    # 2. `first`, the number of tokens before this program's: first, the earlier clips.
    clip = tl.load(clip_of + own)
    key_here, several_here = tl.load(keyframe + own) > 0, tl.load(several + own) > 0
    number = tl.load(kept + own)
    slot = tl.arange(0, cell_block)
    first = tl.sum(tl.where(of_clip < clip, merged_count, 0), axis=0)
    if is_merged == 1:
        # Merged tokens come last in their clip, or first if they replace the original tokens.
        if tl.sum(tl.where(frame == own, merged_count, 0), axis=0) == 0:
            return
        before = of_clip <= clip
        if merged_only == 1:
            before = of_clip < clip
        first += tl.sum(tl.where(before, own_count, 0), axis=0)
        shown = slot < number
        role = as_merged
        mass = tl.load(merged_mass + clip * cells + slot, mask=shown, other=0.0).to(tl.float32)
        clip_here = clip
    else:
        # Original tokens come frame by frame, after merged tokens that replace a keyframe.
        first += tl.sum(tl.where(frame < own, own_count, 0), axis=0)
        if merged_only == 1:
            first += tl.sum(tl.where(of_clip == clip, merged_count, 0), axis=0)
        # A keyframe shows all kept cells or (if replaced) none; a later frame, distinct tokens.
        changed = tl.load(distinct + own * cells + slot, mask=slot < number, other=0).to(tl.int32)
        whole = tl.zeros((cell_block,), tl.int32) + 1
        if merged_only == 1:
            whole -= several_here.to(tl.int32)
        shown = (slot < number) & (tl.where(key_here, whole, changed) > 0)
        role = tl.where(key_here, tl.where(several_here, as_keyframe, as_kept), as_distinct)
        mass = tl.full((cell_block,), 1.0, tl.float32)
        clip_here = clip * 0 - 1
    # 3. Store the fields of the tokens, never beyond the budget.
    token = first + tl.cumsum(shown.to(tl.int32), axis=0) - 1
    shown = shown & (token < budget)
    cell = tl.load(cell_index + own * cells + slot, mask=shown, other=0)
    tl.store(frame_out + token, tl.zeros((cell_block,), tl.int32) + own, mask=shown)
    tl.store(row_out + token, cell // pooled_cols, mask=shown)
    tl.store(col_out + token, cell % pooled_cols, mask=shown)
    tl.store(role_out + token, (tl.zeros((cell_block,), tl.int32) + role).to(tl.uint8), mask=shown)
    tl.store(mass_out + token, mass, mask=shown)
    tl.store(slot_out + token, slot, mask=shown)
    tl.store(clip_out + token, tl.zeros((cell_block,), tl.int32) + clip_here, mask=shown)


@triton.jit(do_not_specialize=["cells"])
def copy_kernel(tokens, merged, frame, slot, clip, features, cells, width, block: tl.constexpr):
    """Copy the features of one token."""
    token = tl.program_id(0).to(tl.int64)
    own_slot, of_clip = tl.load(slot + token), tl.load(clip + token).to(tl.int64)
    own = (tl.load(frame + token).to(tl.int64) * cells + own_slot) * width
    for first in range(0, width, block):
        units = first + tl.arange(0, block)
        if of_clip < 0:
            values = tl.load(tokens + own + units, mask=units < width, other=0.0)
        else:
            at = (of_clip * cells + own_slot) * width
            values = tl.load(merged + at + units, mask=units < width, other=0.0).to(features.dtype.element_ty)
        tl.store(features + token * width + units, values, mask=units < width)
