"""Choose anchors and kept cells in Triton, as `anchors` and `budget` do in torch.

In `on_device`, "queued" means: the host only queues work and never waits for the device. So the
host does not know the number of anchors. Tensors that depend on this number have room for all
patches of a frame, and kernels read the number from the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from aot.compression.aot.on_device.layout import QueuedLayout
from aot.compression.ops.kernels import block_of, on_device

__all__ = ["QueuedAllocation", "allocate_queued"]

_TILE = 64  # patches or cells that a program compares with all others


@dataclass(frozen=True, slots=True)
class QueuedAllocation:
    """Hold the anchors, the kept cells and each frame's share of the budget, on the device.

    Attributes:
        found: int32 [2], the chosen `count` for `AnchorRanking.total`, and the result of `total`.
        is_anchor: int8 [F, N], 1 for anchors.
        anchor_index: int32 [F, N], first the anchors of a frame, ascending; the rest is undefined.
        cell: int32 [F, n], first the kept cells of a frame, ascending; the rest is undefined.
        kept: int32 [F], the number of kept cells of each frame.
        distinct: int32 [F], the number of distinct tokens of each frame; 0 for keyframes.
    """

    found: Tensor
    is_anchor: Tensor
    anchor_index: Tensor
    cell: Tensor
    kept: Tensor
    distinct: Tensor


def allocate_queued(layout: QueuedLayout, shallow: Tensor, deep: Tensor, asked: int, budget: int) -> QueuedAllocation:
    """Queue the same choices as `rank_patches`, `allocate` and `KeptCells.build` make.

    Args:
        layout: sizes and tables of the video.
        shallow: [F, N], saliency that ranks patches within windows.
        deep: [F, N], saliency that ranks all patches of a frame.
        asked: the number of anchors per frame to try first; the chosen number is near it.
        budget: the number of tokens to keep.
    """
    frames, patches, cells = layout.frames, layout.patches, layout.cells
    # With NaN, ranks would not be a permutation, and kernels would read undefined indices.
    shallow, deep = (values.float().masked_fill(values.isnan(), 0.0).contiguous() for values in (shallow, deep))

    def ints(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=deep.device)

    # 1. Allocate tensors. `counts` and `masks` have a row for each number of anchors, 0 .. N.
    table = layout.tables
    window_rank, deep_order = ints(frames, patches), ints(frames, patches)
    counts, found = ints(patches + 1, frames), ints(2)
    masks = torch.empty(patches + 1, frames, patches, dtype=torch.int8, device=deep.device)
    is_anchor, anchor_index = torch.empty_like(masks[0]), ints(frames, patches)
    votes, kept, best = ints(frames, cells), ints(frames, cells), ints(frames)
    salience = deep.new_empty(frames, cells)
    # Dropped cells [F, n] and their number per frame [F], in one tensor of zeros.
    dropped = torch.zeros(frames * (cells + 1), dtype=torch.int32, device=deep.device)
    dropped_cells, dropped_counts = dropped[: frames * cells], dropped[frames * cells :]
    cell, kept_counts, distinct = ints(frames, cells), ints(frames), ints(frames)
    # 2. Collect arguments that several kernels share.
    taps = (table["row_tap"], table["col_tap"], table["row_part"], table["col_part"])
    sizes = (frames, patches, layout.grid[1], cells, layout.pooled[1])
    blocks = {
        "taps": layout.taps, "patch_block": triton.next_power_of_2(patches),
        "cell_block": triton.next_power_of_2(cells),
    }  # fmt: skip
    frame_block = {"frame_block": block_of(frames)}
    of_clips = (table["keyframe"], table["copies"])
    split = (table["per_window"], table["globals"])
    with on_device(deep.device):
        # 3. Rank all patches.
        rank_kernel[(frames, triton.cdiv(patches, _TILE))](
            shallow, deep, table["window"], window_rank, deep_order, patches, tile=_TILE
        )
        # 4. Count kept cells for `asked` anchors, then for each number that the search may try.
        for pruned, candidates in ((False, 1), (True, patches)):
            count_kernel[(frames, candidates)](
                window_rank, deep_order, *split, *taps, *of_clips, masks, counts, asked, budget, *sizes,
                pruned=pruned, **blocks, **frame_block,
            )  # fmt: skip
        # 5. Find the number of anchors, then select the anchors and kept cells.
        search_kernel[(1,)](counts, *of_clips, table["total"], found, asked, budget, frames, patches, **frame_block)
        select_kernel[(frames,)](
            window_rank, deep_order, *split, *taps, found, deep,
            is_anchor, anchor_index, votes, salience, kept, best, counts, *sizes, **blocks,
        )  # fmt: skip
        # 6. Drop cells until the keyframes fit, and share the rest of the budget.
        trim_kernel[(triton.cdiv(len(layout.clips) * cells, _TILE),)](
            votes, salience, kept, best, counts, found, *of_clips, table["first"], dropped_cells, dropped_counts,
            budget, frames, cells, len(layout.clips), tile=_TILE, **frame_block,
        )  # fmt: skip
        share_kernel[(frames,)](
            kept, dropped_cells, dropped_counts, counts, found, *of_clips, cell, kept_counts, distinct,
            budget, frames, cells, cell_block=blocks["cell_block"], **frame_block,
        )  # fmt: skip
    return QueuedAllocation(found, is_anchor, anchor_index, cell, kept_counts, distinct)


@triton.jit(do_not_specialize=["patches"])
def rank_kernel(shallow, deep, window, window_rank, deep_order, patches, tile: tl.constexpr):
    """Rank patches within windows by shallow saliency, and order them by deep saliency."""
    # 1. The patches of this program, with their saliency and window.
    at = tl.program_id(0).to(tl.int64) * patches
    own = tl.program_id(1) * tile + tl.arange(0, tile)
    inside = own < patches
    near, far = tl.load(shallow + at + own, mask=inside, other=0.0), tl.load(deep + at + own, mask=inside, other=0.0)
    home = tl.load(window + own, mask=inside, other=-1)
    # 2. The rank of a patch is the number of better patches. Ties go to the lower index.
    near_rank, far_rank = tl.zeros((tile,), tl.int32), tl.zeros((tile,), tl.int32)
    for first in range(0, patches, tile):
        other = first + tl.arange(0, tile)
        there = other < patches
        other_near = tl.load(shallow + at + other, mask=there, other=0.0)[None, :]
        other_far = tl.load(deep + at + other, mask=there, other=0.0)[None, :]
        other_home = tl.load(window + other, mask=there, other=-2)[None, :]
        lower = there[None, :] & (other[None, :] < own[:, None])
        higher = (other_near > near[:, None]) | ((other_near == near[:, None]) & lower)
        near_rank += tl.sum((higher & (other_home == home[:, None]) & there[None, :]).to(tl.int32), axis=1)
        higher = (other_far > far[:, None]) | ((other_far == far[:, None]) & lower)
        far_rank += tl.sum((higher & there[None, :]).to(tl.int32), axis=1)
    tl.store(window_rank + at + own, near_rank, mask=inside)
    tl.store(deep_order + at + far_rank, own, mask=inside)


@triton.jit
def _mark(window_rank, deep_order, per_window, n_global, mask, patches, block: tl.constexpr):
    """Store in `mask` which patches of one frame are anchors."""
    # By deep saliency: local anchors, and the first `n_global` of the other patches.
    rank = tl.arange(0, block)
    inside = rank < patches
    patch = tl.load(deep_order + rank, mask=inside, other=0)
    local = (tl.load(window_rank + patch, mask=inside, other=0) < per_window) & inside
    free = (inside & (local == 0)).to(tl.int32)
    chosen = local | ((free > 0) & (tl.cumsum(free, axis=0) <= n_global))
    tl.store(mask + patch, chosen.to(tl.int8), mask=inside)


@triton.jit
def _pooled(
    values, row_tap, col_tap, row_part, col_part, cells, grid_cols, pooled_cols, taps: tl.constexpr, block: tl.constexpr
):
    """Return the values of one frame's patches, pooled to cells: float32 [block]."""
    cell = tl.arange(0, block)
    inside = cell < cells
    # The weight of a patch is the product of its weights along rows and columns.
    row, col = cell // pooled_cols * taps, cell % pooled_cols * taps
    total = tl.zeros((block,), tl.float32)
    for i in tl.static_range(taps):
        patch_row = tl.load(row_tap + row + i, mask=inside, other=0)
        of_row = tl.load(row_part + row + i, mask=inside, other=0.0)
        for j in tl.static_range(taps):
            patch_col = tl.load(col_tap + col + j, mask=inside, other=0)
            of_col = tl.load(col_part + col + j, mask=inside, other=0.0)
            value = tl.load(values + patch_row * grid_cols + patch_col, mask=inside, other=0)
            total += of_row * of_col * value.to(tl.float32)
    return total


@triton.jit
def _weighed(counts, keyframe, copies, later, frames, block: tl.constexpr):
    """Return the sum of `counts`, multiplied by `copies` in keyframes and by `later` elsewhere."""
    frame = tl.arange(0, block)
    inside = frame < frames
    count = tl.load(counts + frame, mask=inside, other=0)
    is_key = tl.load(keyframe + frame, mask=inside, other=0)
    times = tl.load(copies + frame, mask=inside, other=0)
    return tl.sum(count * tl.where(is_key > 0, times, later), axis=0)


@triton.jit(
    do_not_specialize=["asked", "budget", "frames", "patches", "grid_cols", "cells", "pooled_cols"],
)
def count_kernel(
    window_rank, deep_order, per_window, n_global, row_tap, col_tap, row_part, col_part, keyframe, copies,
    masks, counts, asked, budget, frames, patches, grid_cols, cells, pooled_cols,
    pruned: tl.constexpr, taps: tl.constexpr, patch_block: tl.constexpr, cell_block: tl.constexpr,
    frame_block: tl.constexpr,
):  # fmt: skip
    """Count the cells that one frame keeps with `asked` anchors.

    If `pruned`, each program counts for one other number of anchors instead, if `search_kernel` may
    try this number. The counts for `asked`, from an earlier launch, decide this.
    """
    frame, number = tl.program_id(0).to(tl.int64), asked
    if pruned:
        # The search goes down if the keyframes do not fit, and up if all kept cells are too few.
        number = tl.program_id(1) + 1
        at_start = counts + asked * frames
        base = _weighed(at_start, keyframe, copies, 0, frames, frame_block)
        capacity = _weighed(at_start, keyframe, copies, 1, frames, frame_block)
        below, above = (base > budget) & (number < asked), (base <= budget) & (capacity < budget) & (number > asked)
        if (below | above) == 0:
            return
    at = frame * patches
    mask = masks + number.to(tl.int64) * frames * patches + at
    local, others = tl.load(per_window + number), tl.load(n_global + number)
    _mark(window_rank + at, deep_order + at, local, others, mask, patches, patch_block)
    tl.debug_barrier()
    votes = _pooled(mask, row_tap, col_tap, row_part, col_part, cells, grid_cols, pooled_cols, taps, cell_block)
    kept = tl.sum((votes >= 0.5).to(tl.int32), axis=0)
    # The cell with the most votes is always kept.
    tl.store(counts + number * frames + frame, tl.maximum(kept, 1))


@triton.jit(do_not_specialize=["asked", "budget", "frames", "patches"])
def search_kernel(counts, keyframe, copies, total, found, asked, budget, frames, patches, frame_block: tl.constexpr):
    """Find the number of anchors by bisection, as `aot.compression.aot.budget` does."""
    base = _weighed(counts + asked * frames, keyframe, copies, 0, frames, frame_block)
    capacity = _weighed(counts + asked * frames, keyframe, copies, 1, frames, frame_block)
    down, up = base > budget, (base <= budget) & (capacity < budget)
    # 1. Bisect as `_bisect` does: the condition is true at `above` and false at `below`.
    below = tl.where(down, 0, asked)
    above = tl.where(up, patches, asked)
    while above - below > 1:
        middle = (below + above) // 2
        at = counts + middle * frames
        reaches = _weighed(at, keyframe, copies, tl.where(down, 0, 1), frames, frame_block)
        holds = tl.where(down, reaches > budget, reaches >= budget)
        below, above = tl.where(holds, below, middle), tl.where(holds, middle, above)
    # 2. If the search goes down, `above` does not fit. Use above - 1 if its cells are enough.
    fits = tl.maximum(above - 1, 1)
    enough = _weighed(counts + fits * frames, keyframe, copies, 1, frames, frame_block) >= budget
    number = tl.where(down & (above > 1) & enough, fits, above)
    tl.store(found, number)
    tl.store(found + 1, tl.load(total + number))


@triton.jit(do_not_specialize=["frames", "patches", "grid_cols", "cells", "pooled_cols"])
def select_kernel(
    window_rank, deep_order, per_window, n_global, row_tap, col_tap, row_part, col_part, found, deep,
    is_anchor, anchor_index, votes, salience, kept, best, counts, frames, patches, grid_cols, cells, pooled_cols,
    taps: tl.constexpr, patch_block: tl.constexpr, cell_block: tl.constexpr,
):  # fmt: skip
    """Select anchors and kept cells of one frame; `best` gets the cell that is never dropped."""
    # 1. The mask of anchors, and the ascending indices of anchors.
    frame = tl.program_id(0).to(tl.int64)
    number = tl.load(found)
    at, cells_at = frame * patches, frame * cells
    local, others = tl.load(per_window + number), tl.load(n_global + number)
    _mark(window_rank + at, deep_order + at, local, others, is_anchor + at, patches, patch_block)
    tl.debug_barrier()
    patch = tl.arange(0, patch_block)
    anchor = tl.load(is_anchor + at + patch, mask=patch < patches, other=0).to(tl.int32)
    tl.store(anchor_index + at + tl.cumsum(anchor, axis=0) - 1, patch, mask=anchor > 0)
    # 2. Votes and saliency of the cells. Votes of at least 0.5 and the highest vote are kept.
    cell = tl.arange(0, cell_block)
    inside = cell < cells
    vote = _pooled(
        is_anchor + at, row_tap, col_tap, row_part, col_part, cells, grid_cols, pooled_cols, taps, cell_block
    )
    salient = _pooled(deep + at, row_tap, col_tap, row_part, col_part, cells, grid_cols, pooled_cols, taps, cell_block)
    # As integers, equal votes are equal in any summation order.
    whole = tl.where(inside, (vote * 65536 + 0.5).to(tl.int32), -1)
    is_kept = inside & ((vote >= 0.5) | (cell == tl.argmax(whole, axis=0, tie_break_left=True)))
    tl.store(votes + cells_at + cell, whole, mask=inside)
    tl.store(salience + cells_at + cell, salient, mask=inside)
    tl.store(kept + cells_at + cell, is_kept.to(tl.int32), mask=inside)
    tl.store(counts + number * frames + frame, tl.sum(is_kept.to(tl.int32), axis=0))
    # 3. The best cell: most votes, then highest saliency, then lowest index.
    most = tl.max(tl.where(is_kept, whole, -1), axis=0)
    tied = is_kept & (whole == most)
    highest = tl.max(tl.where(tied, salient, float("-inf")), axis=0)
    tl.store(best + frame, tl.min(tl.where(tied & (salient == highest), cell, cells), axis=0))


@triton.jit(do_not_specialize=["budget", "frames", "cells", "clips"])
def trim_kernel(
    votes, salience, kept, best, counts, found, keyframe, copies, first_frame, dropped, dropped_counts,
    budget, frames, cells, clips, tile: tl.constexpr, frame_block: tl.constexpr,
):  # fmt: skip
    """Drop cells of keyframes until the keyframes fit into the budget.

    The cell with the fewest votes goes first; of equal votes, the least salient; of equal saliency,
    the last in the video. A cell is dropped if dropping all cells that go before is not enough.
    """
    # 1. The number of tokens to drop.
    excess = _weighed(counts + tl.load(found) * frames, keyframe, copies, 0, frames, frame_block) - budget
    if excess <= 0:
        return
    # 2. The keyframe cells of this program. The best cell of a keyframe always stays.
    total = clips * cells
    own = tl.program_id(0) * tile + tl.arange(0, tile)
    frame = tl.load(first_frame + own // cells, mask=own < total, other=0)
    at = frame * cells + own % cells
    vote, salient = tl.load(votes + at, mask=own < total, other=0), tl.load(salience + at, mask=own < total, other=0.0)
    may_go = (own < total) & (tl.load(kept + at, mask=own < total, other=0) > 0)
    may_go = may_go & (tl.load(best + frame, mask=own < total, other=0) != own % cells)
    # 3. For each cell, the number of tokens that dropping all earlier cells removes.
    freed = tl.zeros((tile,), tl.int32)
    for first in range(0, total, tile):
        other = first + tl.arange(0, tile)
        there = other < total
        other_frame = tl.load(first_frame + other // cells, mask=there, other=0)
        other_at = other_frame * cells + other % cells
        goes = there & (tl.load(kept + other_at, mask=there, other=0) > 0)
        goes = goes & (tl.load(best + other_frame, mask=there, other=0) != other % cells)
        other_vote = tl.load(votes + other_at, mask=there, other=0)[None, :]
        other_salient = tl.load(salience + other_at, mask=there, other=0.0)[None, :]
        tied = (other_salient == salient[:, None]) & (other[None, :] > own[:, None])
        less = (other_salient < salient[:, None]) | tied
        before = (other_vote < vote[:, None]) | ((other_vote == vote[:, None]) & less)
        worth = tl.load(copies + other_frame, mask=there, other=0)[None, :]
        freed += tl.sum(tl.where(before & goes[None, :], worth, 0), axis=1)
    # 4. Drop a cell if this number is too small.
    goes = may_go & (freed < excess)
    tl.store(dropped + at, goes.to(tl.int32), mask=own < total)
    tl.atomic_add(dropped_counts + frame, goes.to(tl.int32), mask=goes)


@triton.jit(do_not_specialize=["budget", "frames", "cells"])
def share_kernel(
    kept, dropped, dropped_counts, counts, found, keyframe, copies, cell_index, kept_counts, distinct,
    budget, frames, cells, cell_block: tl.constexpr, frame_block: tl.constexpr,
):  # fmt: skip
    """Share the budget that keyframes leave, by largest remainder, and list the kept cells."""
    # 1. The number of kept cells of every frame after trimming, in each program for all frames.
    own = tl.program_id(0)
    frame = tl.arange(0, frame_block)
    inside = frame < frames
    count = tl.load(counts + tl.load(found) * frames + frame, mask=inside, other=0)
    count -= tl.load(dropped_counts + frame, mask=inside, other=0)
    is_key = tl.load(keyframe + frame, mask=inside, other=0) > 0
    base = tl.sum(tl.where(is_key, count * tl.load(copies + frame, mask=inside, other=0), 0), axis=0)
    # 2. The proportional shares of later frames, in integers as in `spread`.
    later = tl.where(is_key, 0, count).to(tl.int64)
    room, rest = tl.maximum(tl.sum(later, axis=0), 1), (budget - base).to(tl.int64)
    share, remainder = rest * later // room, rest * later % room
    # 3. The rest goes to the largest remainders. Ties go to the earlier frame.
    left = rest - tl.sum(share, axis=0)
    is_own = frame == own
    remains, own_share = tl.sum(tl.where(is_own, remainder, 0), axis=0), tl.sum(tl.where(is_own, share, 0), axis=0)
    ahead = inside & ((remainder > remains) | ((remainder == remains) & (frame < own)))
    one_more = (tl.sum(ahead.to(tl.int64), axis=0) < left) & (remains > 0)
    tl.store(distinct + own, (own_share + one_more.to(tl.int64)).to(tl.int32))
    tl.store(kept_counts + own, tl.sum(tl.where(is_own, count, 0), axis=0))
    # 4. The indices of this frame's kept cells, ascending.
    cell = tl.arange(0, cell_block)
    at = own.to(tl.int64) * cells + cell
    stays = tl.load(kept + at, mask=cell < cells, other=0) - tl.load(dropped + at, mask=cell < cells, other=0)
    tl.store(cell_index + own.to(tl.int64) * cells + tl.cumsum(stays, axis=0) - 1, cell, mask=stays > 0)
