"""How many tokens each block of an encoder merges, so that the last count is the one asked for."""

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


def block_counts(plan: Sequence[BlockMerging], frames: int, patches: int) -> list[int]:
    """Tokens of a clip behind each block of `plan`."""
    sequences, count, counts = frames, patches, []
    for step in plan:
        sequences, count = sequences // step.join, count * step.join - step.before - step.after
        counts.append(sequences * count)
    return counts


def frame_merging(
    patches: int, target: int, blocks: int, schedule: Literal["constant", "linear"] = "constant"
) -> tuple[BlockMerging, ...]:
    """From `patches` to `target` tokens over `blocks` (ToMe, arXiv 2210.09461, section 3).

    "constant": equal merges in all blocks, what does not divide in the first; "linear": from twice the mean to none.
    A block that is to merge more than half of its tokens, as the last may be, matches more than once. Unmerged tokens
    go on by similarity, for want of a class token.

    Raises:
        ValueError: target is not in 1 .. patches.
    """
    if not 1 <= target <= patches:
        raise ValueError(f"target: expected 1 to {patches} tokens, got {target}")
    weights = [1] * blocks
    if schedule == "linear" and blocks > 1:
        weights = list(range(blocks - 1, -1, -1))
    total = patches - target
    return tuple(
        BlockMerging(after=merges, by_similarity=True) for merges in spread(total, [total * each for each in weights])
    )


@dataclass(frozen=True, slots=True)
class ClipShares:
    """TempMe's published proportions (arXiv 2409.01156).

    image: the share of a frame's tokens that the blocks ahead of the clips keep between them; across: kept of what
    was joined; within and later: kept in a clip block behind attention, and in each block after the clip blocks.
    clip_blocks: where frames are joined, of `blocks`; joined: how many there.
    """

    image: float = 33 / 49
    across: float = 0.7
    within: float = 0.9
    later: float = 0.9
    clip_blocks: tuple[int, int, int] = (8, 9, 10)
    blocks: int = 12
    joined: tuple[int, int, int] = (2, 2, 3)

    def power(self, exponent: float) -> ClipShares:
        """All shares to one power: the same balance, for another ratio."""
        names = ("image", "across", "within", "later")
        return replace(self, **{name: getattr(self, name) ** exponent for name in names})

    def places(self, blocks: int) -> list[int]:
        """The clip blocks of a tower of `blocks`, at their relative depth, one after the other where there is room."""
        places: list[int] = []
        for number, block in enumerate(self.clip_blocks):
            place = max(block * blocks // self.blocks, places[-1] + 1 if places else 0)
            places.append(max(0, min(place, blocks - len(self.clip_blocks) + number)))
        return places


def joins_for(frames: int, joined: Sequence[int]) -> tuple[int, ...] | None:
    """How many of `frames` are joined each time, at most those of `joined` and early ones first; None: not evenly."""
    options = product(*(range(most, 0, -1) for most in joined))
    return next((joins for joins in options if math.prod(joins) == frames), None)


@cache
def clip_merging(frames: int, patches: int, target: int, blocks: int, shares: ClipShares) -> tuple[BlockMerging, ...]:
    """From a clip of `frames` times `patches` to `target` tokens over `blocks`.

    All shares are raised to one power, the highest that leaves at least the target; the last block merges the rest.
    A matching merges half of the tokens at most, but in the last block, which matches as often as it must.

    Raises:
        ValueError: target is not in 1 .. frames * patches, or the frames do not join evenly.
    """
    if not 1 <= target <= frames * patches:
        raise ValueError(f"target: expected 1 to {frames * patches} tokens, got {target}")
    joins = joins_for(frames, shares.joined)
    if joins is None:
        raise ValueError(f"frames: expected a product of numbers up to {shares.joined}, got {frames}")
    join_at = dict.fromkeys(shares.places(blocks), 1)
    for place, join in zip(shares.places(blocks), joins, strict=True):
        join_at[place] *= join

    def plan(exponent: float) -> list[BlockMerging]:
        return _plan(patches, blocks, join_at, shares.power(exponent))

    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = block_counts(plan(middle), frames, patches)[-1] >= target
        low, high = (middle, high) if enough else (low, middle)
    best = plan(low)
    rest = block_counts(best, frames, patches)[-1] - target
    return (*best[:-1], replace(best[-1], after=best[-1].after + rest))


def _plan(patches: int, blocks: int, join_at: dict[int, int], shares: ClipShares) -> list[BlockMerging]:
    first, last, count, steps = min(join_at), max(join_at), patches, []
    in_frames = _part(patches, shares.image)
    for block in range(blocks):
        count *= join_at.get(block, 1)
        before = _merges(count, shares.across) if join_at.get(block, 1) > 1 else 0
        if block < first:
            after = min(in_frames // first + (block < in_frames % first), count // 2)
        elif block in join_at:
            after = _merges(count - before, shares.within)
        else:
            after = _merges(count, shares.later) if block > last else 0
        steps.append(BlockMerging(join_at.get(block, 1), before, after))
        count -= before + after
    return steps


def _merges(count: int, kept: float) -> int:
    return min(_part(count, kept), count // 2)


def _part(count: int, kept: float) -> int:
    return int((1 - kept) * count + 1e-9)  # 1 - 0.9 is below 0.1
