"""How many tokens each block of a vision tower merges, so that the last count is the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal

from aot.compression.ops.budget import spread
from aot.types import BlockMerging

__all__ = ["ClipShares", "block_counts", "clip_merging", "frame_merging", "joins_for"]


def frame_merging(
    patches: int, target: int, blocks: int, schedule: Literal["constant", "linear"] = "constant"
) -> tuple[BlockMerging, ...]:
    """Return merges from `patches` to `target` tokens over `blocks` blocks (ToMe, section 3).

    With the "constant" schedule, all blocks merge equally many tokens and the first blocks take the
    remainder. With "linear", merges go down from twice the mean to none. A block that merges more
    than half of its tokens, as the last one may, matches several times. Unmerged tokens are in
    order of similarity, because there is no class token (arXiv 2210.09461).

    Raises:
        ValueError: If `target` is not in 1 .. patches.
    """
    if not 1 <= target <= patches:
        raise ValueError(f"target: expected 1 to {patches} tokens, got {target}")
    weights = [1] * blocks
    # The weights fall linearly from the first block to 0 in the last.
    if schedule == "linear" and blocks > 1:
        weights = list(range(blocks - 1, -1, -1))
    # Apportion all merges by the weights of the blocks.
    total = patches - target
    return tuple(
        BlockMerging(after=merges, by_similarity=True) for merges in spread(total, [total * each for each in weights])
    )


@cache
def clip_merging(frames: int, patches: int, target: int, blocks: int, shares: ClipShares) -> tuple[BlockMerging, ...]:
    """Return merges from `frames` times `patches` to `target` tokens of a clip over the blocks.

    All shares are raised to one power, the highest that leaves at least the target; the last block
    merges the rest. A matching merges at most half of the tokens; only the last block matches as
    often as it must.

    Raises:
        ValueError: If `target` is not in 1 .. frames * patches, or the frames cannot be joined
            evenly.
    """
    if not 1 <= target <= frames * patches:
        raise ValueError(f"target: expected 1 to {frames * patches} tokens, got {target}")
    joins = joins_for(frames, shares.joined)
    if joins is None:
        raise ValueError(f"frames: expected a product of numbers up to {shares.joined}, got {frames}")
    # 1. Where frames are joined. In a shallow tower, two joins can share a block.
    join_at = dict.fromkeys(shares.clip_block_indices(blocks), 1)
    for block, join in zip(shares.clip_block_indices(blocks), joins, strict=True):
        join_at[block] *= join

    def plan(exponent: float) -> list[BlockMerging]:
        return _plan(patches, blocks, join_at, shares.power(exponent))

    # 2. The highest power that leaves enough tokens, by bisection.
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = block_counts(plan(middle), frames, patches)[-1] >= target
        low, high = (middle, high) if enough else (low, middle)
    # 3. The last block merges what is above the target.
    best = plan(low)
    rest = block_counts(best, frames, patches)[-1] - target
    return (*best[:-1], replace(best[-1], after=best[-1].after + rest))


@dataclass(frozen=True, slots=True)
class ClipShares:
    """The proportions of TempMe (arXiv 2409.01156), as published for 12 blocks.

    Attributes:
        image: share of a frame's tokens that is kept by all blocks before the clip blocks together.
        across: share of the joined tokens that a clip block keeps before its attention.
        within: share of the remaining tokens that a clip block keeps after its attention.
        later: share that each block after the clip blocks keeps.
        clip_blocks: the blocks where frames are joined.
        blocks: the number of blocks they are counted in.
        joined: how many clips are joined in each clip block.
    """

    image: float = 33 / 49
    across: float = 0.7
    within: float = 0.9
    later: float = 0.9
    clip_blocks: tuple[int, int, int] = (8, 9, 10)
    blocks: int = 12
    joined: tuple[int, int, int] = (2, 2, 3)

    def power(self, exponent: float) -> ClipShares:
        """Return all shares to one power: the same balance for another ratio."""
        names = ("image", "across", "within", "later")
        return replace(self, **{name: getattr(self, name) ** exponent for name in names})

    def clip_block_indices(self, blocks: int) -> list[int]:
        """Return the clip blocks of a tower of `blocks` blocks, at the same relative depth.

        They are different blocks if the tower has enough of them.
        """
        indices: list[int] = []
        for number, block in enumerate(self.clip_blocks):
            # At the relative depth, and after the previous clip block.
            index = max(block * blocks // self.blocks, indices[-1] + 1 if indices else 0)
            indices.append(max(0, min(index, blocks - len(self.clip_blocks) + number)))
        return indices


def joins_for(frames: int, joined: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many clips are joined each time so that all `frames` are one, or None.

    No number is above that of `joined`, and the earliest joins are the greatest. None means that
    the frames cannot be joined evenly.
    """
    # In descending order, so that early joins are the greatest.
    options = product(*(range(most, 0, -1) for most in joined))
    return next((joins for joins in options if math.prod(joins) == frames), None)


def _plan(patches: int, blocks: int, join_at: dict[int, int], shares: ClipShares) -> list[BlockMerging]:
    """Return the merges of every block for these shares."""
    first, last, count, steps = min(join_at), max(join_at), patches, []
    in_frames = _part(patches, shares.image)
    for block in range(blocks):
        count *= join_at.get(block, 1)
        before = _merges(count, shares.across) if join_at.get(block, 1) > 1 else 0
        # Before the clip blocks: an equal part of all merges within frames.
        if block < first:
            after = min(in_frames // first + (block < in_frames % first), count // 2)
        elif block in join_at:
            # In a clip block: what is left after the merge across clips.
            after = _merges(count - before, shares.within)
        else:
            after = _merges(count, shares.later) if block > last else 0
        steps.append(BlockMerging(join_at.get(block, 1), before, after))
        count -= before + after
    return steps


def _merges(count: int, kept: float) -> int:
    """Return how many of `count` tokens one matching merges to keep a share."""
    return min(_part(count, kept), count // 2)


def _part(count: int, kept: float) -> int:
    """Return how many of `count` tokens a step removes that keeps a share."""
    # In floating point 1 - 0.9 is below 0.1.
    return int((1 - kept) * count + 1e-9)


def block_counts(plan: Sequence[BlockMerging], frames: int, patches: int) -> list[int]:
    """Return the number of tokens of a clip after each block of `plan`."""
    sequences, count, counts = frames, patches, []
    for step in plan:
        sequences, count = sequences // step.join, count * step.join - step.before - step.after
        counts.append(sequences * count)
    return counts
