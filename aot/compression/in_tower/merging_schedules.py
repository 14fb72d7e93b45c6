"""Decide how many tokens each block of a vision tower merges to reach a target count."""

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
    """Return how each block merges, so that `target` of `patches` tokens remain (ToMe, section 3).

    With the "constant" schedule, all blocks merge equally many tokens and the first blocks take the
    remainder. With "linear", the merges per block fall from twice the mean to 0. A block that must
    merge more than half of its tokens repeats the matching. Unmerged tokens are sorted by
    similarity, because there is no class token (arXiv 2210.09461).

    Raises:
        ValueError: If `target` is not in 1 .. patches.
    """
    if not 1 <= target <= patches:
        raise ValueError(f"target: expected 1 to {patches} tokens, got {target}")
    weights = [1] * blocks
    # The weights fall linearly to 0 in the last block.
    if schedule == "linear" and blocks > 1:
        weights = list(range(blocks - 1, -1, -1))
    # Apportion all merges by the weights of the blocks.
    total = patches - target
    return tuple(
        BlockMerging(after=merges, by_similarity=True) for merges in spread(total, [total * each for each in weights])
    )


@cache
def clip_merging(frames: int, patches: int, target: int, blocks: int, shares: ClipShares) -> tuple[BlockMerging, ...]:
    """Return how each block merges, so that `target` of a clip's frames * patches tokens remain.

    All `shares` are raised to the same power: the highest power that leaves at least `target`
    tokens. The last block then merges down to exactly `target` tokens and repeats the matching if
    needed; in other blocks, one matching merges at most half of the tokens.

    Raises:
        ValueError: If `target` is not in 1 .. frames * patches, or `frames` is not a product with
            one factor per clip block, of which factor i is at most `shares.joined[i]`.
    """
    if not 1 <= target <= frames * patches:
        raise ValueError(f"target: expected 1 to {frames * patches} tokens, got {target}")
    joins = joins_for(frames, shares.joined)
    if joins is None:
        raise ValueError(f"frames: expected a product of numbers up to {shares.joined}, got {frames}")
    # 1. Find the blocks that join frames. In a shallow tower, two joins can share a block.
    join_at = dict.fromkeys(shares.clip_block_indices(blocks), 1)
    for block, join in zip(shares.clip_block_indices(blocks), joins, strict=True):
        join_at[block] *= join

    def plan(exponent: float) -> list[BlockMerging]:
        return _plan(patches, blocks, join_at, shares.power(exponent))

    # 2. Find the highest power that leaves enough tokens, by bisection.
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = block_counts(plan(middle), frames, patches)[-1] >= target
        low, high = (middle, high) if enough else (low, middle)
    # 3. The last block merges all tokens above the target.
    best = plan(low)
    rest = block_counts(best, frames, patches)[-1] - target
    return (*best[:-1], replace(best[-1], after=best[-1].after + rest))


@dataclass(frozen=True, slots=True)
class ClipShares:
    """Hold the shares of tokens that TempMe (arXiv 2409.01156) keeps, published for 12 blocks.

    Attributes:
        image: share of a frame's tokens that is left after all blocks before the clip blocks.
        across: share of the joined tokens that a clip block keeps before its attention.
        within: share of the remaining tokens that a clip block keeps after its attention.
        later: share of the tokens that each block after the clip blocks keeps.
        clip_blocks: the indices (from 0) of the blocks that join clips, in the published tower.
        blocks: the number of blocks in the published tower.
        joined: the largest number of clips that each clip block joins into one.
    """

    image: float = 33 / 49
    across: float = 0.7
    within: float = 0.9
    later: float = 0.9
    clip_blocks: tuple[int, int, int] = (8, 9, 10)
    blocks: int = 12
    joined: tuple[int, int, int] = (2, 2, 3)

    def power(self, exponent: float) -> ClipShares:
        """Return a copy with all shares raised to the power `exponent`, to reach another ratio."""
        names = ("image", "across", "within", "later")
        return replace(self, **{name: getattr(self, name) ** exponent for name in names})

    def clip_block_indices(self, blocks: int) -> list[int]:
        """Return the indices of the clip blocks in a tower of `blocks` blocks.

        Their relative depth is that in the published tower. The indices are distinct if `blocks` is
        at least the length of `clip_blocks`.
        """
        indices: list[int] = []
        for number, block in enumerate(self.clip_blocks):
            # Keep the relative depth, but stay after the previous clip block.
            index = max(block * blocks // self.blocks, indices[-1] + 1 if indices else 0)
            indices.append(max(0, min(index, blocks - len(self.clip_blocks) + number)))
        return indices


def joins_for(frames: int, joined: Sequence[int]) -> tuple[int, ...] | None:
    """Factorize `frames`: factor i is the number of clips that clip block i joins into one.

    Factor i is at most `joined[i]`, and early factors are as large as possible. Return None if
    there are no such factors.
    """
    # Descending order makes early factors as large as possible.
    options = product(*(range(most, 0, -1) for most in joined))
    return next((joins for joins in options if math.prod(joins) == frames), None)


def _plan(patches: int, blocks: int, join_at: dict[int, int], shares: ClipShares) -> list[BlockMerging]:
    """Return how every block merges; `join_at` maps clip blocks to numbers of clips to join."""
    first, last, count, steps = min(join_at), max(join_at), patches, []
    in_frames = _part(patches, shares.image)
    for block in range(blocks):
        count *= join_at.get(block, 1)
        before = _merges(count, shares.across) if join_at.get(block, 1) > 1 else 0
        # Before the clip blocks: all merges within frames, spread equally over these blocks.
        if block < first:
            after = min(in_frames // first + (block < in_frames % first), count // 2)
        elif block in join_at:
            # In a clip block: a share of the tokens that the merge across clips has left.
            after = _merges(count - before, shares.within)
        else:
            after = _merges(count, shares.later) if block > last else 0
        steps.append(BlockMerging(join_at.get(block, 1), before, after))
        count -= before + after
    return steps


def _merges(count: int, kept: float) -> int:
    """Return how many of `count` tokens to merge, at most half, to leave the share `kept`."""
    return min(_part(count, kept), count // 2)


def _part(count: int, kept: float) -> int:
    """Return how many of `count` tokens to remove, rounded down, to leave the share `kept`."""
    # The offset is needed because 1 - 0.9 is below 0.1 in floating point.
    return int((1 - kept) * count + 1e-9)


def block_counts(plan: Sequence[BlockMerging], frames: int, patches: int) -> list[int]:
    """Return the number of tokens of a clip after each block of `plan`."""
    sequences, count, counts = frames, patches, []
    for step in plan:
        sequences, count = sequences // step.join, count * step.join - step.before - step.after
        counts.append(sequences * count)
    return counts
