"""Meet exact budgets: choose the numbers of anchors and of distinct tokens per frame.

In published AOT, the number of kept tokens depends on the content. Here the number is exact
(docs/algorithm.md, section 6): the number of anchors is changed until the tokens of the keyframes
fit into the budget, and later frames share the rest of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from aot.compression.ops.budget import spread
from aot.types import Clip

__all__ = ["Allocation", "allocate", "anchors_for_ratio", "copies_per_clip", "kept_cells"]

# (ratio, number of anchors among 729 patches): published settings, interpolated linearly.
_PUBLISHED_ANCHORS = ((0.0, 0), (0.10, 126), (0.15, 144), (0.20, 196), (0.25, 205), (1.0, 729))


def anchors_for_ratio(ratio: float, patches: int) -> int:
    """Return the number of anchors per frame, 1 to `patches`, for keeping the share `ratio`.

    Published numbers, for 729 patches per frame, are interpolated and then scaled to `patches`.
    """
    for (r0, m0), (r1, m1) in pairwise(_PUBLISHED_ANCHORS):
        if ratio <= r1:
            anchors = m0 + (ratio - r0) / (r1 - r0) * (m1 - m0)
            return min(max(round(anchors * patches / 729), 1), patches)
    return patches


@dataclass(frozen=True, slots=True)
class Allocation:
    """Hold how a budget is shared among the frames.

    Attributes:
        anchors: the number of anchors per frame, to be passed to `AnchorRanking.select`.
        kept: bool [F, n], true for kept cells.
        distinct: the number of distinct tokens of each frame, 0 for keyframes; None if
            `DistinctRule` decides by content.
        copies: how often each clip emits its keyframe, 1 or 2.
    """

    anchors: int
    kept: Tensor
    distinct: tuple[int, ...] | None
    copies: tuple[int, ...]


def allocate(
    budget: int,
    anchors: int,
    most_anchors: int,
    clips: Sequence[Clip],
    votes_for: Callable[[int], Tensor],
    saliency: Tensor,
    copies: int = 2,
) -> Allocation:
    """Choose anchors, kept cells and numbers of distinct tokens that give `budget` tokens.

    Args:
        budget: the number of tokens, from one per clip to F * n.
        anchors: the number of anchors per frame to try first; the chosen number is near it.
        most_anchors: N, the largest number of anchors per frame.
        clips: consecutive runs of frames that cover all F.
        votes_for: returns the pooled anchor mask [F, n] for a number of anchors per frame.
        saliency: [F, n]; if keyframe cells have equal votes, the least salient is dropped first.
        copies: how often a clip of several frames emits its keyframe if `budget` suffices.

    Raises:
        ValueError: If `budget` is below one token per clip.
    """
    if budget < len(clips):
        raise ValueError(f"budget: expected at least {len(clips)} (one token per clip), got {budget}")
    # 1. Copies: emit each keyframe once if the budget is below one token per copy.
    clip_copies = copies_per_clip(clips, copies)
    if budget < sum(clip_copies):
        clip_copies = copies_per_clip(clips, 1)
    # 2. Anchors. Reading a selection waits for the device, so selections are cached.
    selected = cache(lambda anchors: _Selection.of(votes_for(anchors)))
    plan = _Fit(budget, clips, clip_copies)
    anchors = plan.search(min(anchors, most_anchors), most_anchors, selected)
    # 3. Drop keyframe cells if the budget lies between two numbers of anchors.
    kept, counts = selected(anchors).kept, selected(anchors).counts
    if plan.base(counts) > budget:
        kept = plan.trim(selected(anchors), saliency)
        counts = kept.sum(1).tolist()
    # 4. Share the rest among later frames in proportion to their kept cells.
    rest = budget - plan.base(counts)
    # Keyframes have no distinct tokens, so their weight is 0.
    later = list(counts)
    for clip in clips:
        later[clip.first] = 0
    return Allocation(anchors, kept, spread(rest, later), clip_copies)


def copies_per_clip(clips: Sequence[Clip], copies: int) -> tuple[int, ...]:
    """Return how often each clip emits its keyframe: 1 for clips of one frame, else `copies`."""
    return tuple(copies if len(clip) > 1 else 1 for clip in clips)


def kept_cells(votes: Tensor) -> Tensor:
    """Return a bool mask [F, n]: cells whose vote is at least 0.5 or the highest of the frame.

    `votes` is the pooled anchor mask [F, n] (docs/algorithm.md, section 3).
    """
    best = _comparable(votes).argmax(-1, keepdim=True) == torch.arange(votes.shape[-1], device=votes.device)
    return (votes >= 0.5) | best


def _comparable(votes: Tensor) -> Tensor:
    """Return votes in whole units of 2^-16: equal votes stay equal in any order of summation."""
    return votes.mul(2**16).round()


@dataclass(frozen=True, slots=True)
class _Selection:
    """Hold votes [F, n], kept cells [F, n] and kept cells per frame, for one number of anchors."""

    votes: Tensor
    kept: Tensor
    counts: list[int]

    @classmethod
    def of(cls, votes: Tensor) -> _Selection:
        kept = kept_cells(votes)
        return cls(votes, kept, kept.sum(1).tolist())


@dataclass(frozen=True, slots=True)
class _Fit:
    """Search for a number of anchors that fits a budget."""

    budget: int
    clips: Sequence[Clip]
    copies: Sequence[int]

    def base(self, counts: Sequence[int]) -> int:
        """Return how many tokens all keyframes emit if frame f keeps counts[f] cells."""
        return sum(copies * counts[clip.first] for clip, copies in zip(self.clips, self.copies, strict=True))

    def capacity(self, counts: Sequence[int]) -> int:
        """Return how many tokens are emitted if later frames emit all their kept cells too."""
        return self.base(counts) + sum(counts) - sum(counts[clip.first] for clip in self.clips)

    def search(self, start: int, most: int, selected: Callable[[int], _Selection]) -> int:
        """Return a number of anchors near `start` for which base <= budget <= capacity.

        If the budget is above the capacity for m anchors and below the base for m + 1 anchors,
        return m + 1; `trim` must then drop keyframe cells.
        """

        def bounds(anchors: int) -> tuple[int, int]:
            counts = selected(anchors).counts
            return self.base(counts), self.capacity(counts)

        base, capacity = bounds(start)
        if base <= self.budget <= capacity:
            return start
        # Bounds need not be monotonic in the number of anchors; bisection finds one crossing.
        if base > self.budget:
            fits = _bisect(0, start, lambda m: bounds(m)[0] > self.budget) - 1
            return fits if fits and bounds(fits)[1] >= self.budget else fits + 1
        return _bisect(start, most, lambda m: bounds(m)[1] >= self.budget)

    def trim(self, selection: _Selection, saliency: Tensor) -> Tensor:
        """Drop keyframe cells until the keyframes fit the budget, and return the other kept cells.

        The cell with the fewest votes goes first; of equal votes, the least salient; of equal
        saliency, the last in the video. In each keyframe, the cell that would go last stays.
        """
        # 1. List the cells that may be dropped: in every keyframe, all but the last in this order.
        excess = self.base(selection.counts) - self.budget
        candidates: list[tuple[float, float, int, int, int]] = []
        tables = (selection.kept, _comparable(selection.votes), saliency)
        here_kept, here_votes, here_saliency = (values.tolist() for values in tables)
        for clip, copies in zip(self.clips, self.copies, strict=True):
            frame = clip.first
            cells = [cell for cell, is_kept in enumerate(here_kept[frame]) if is_kept]
            ranked = sorted((here_votes[frame][cell], here_saliency[frame][cell], -cell) for cell in cells)
            candidates += [(vote, salient, -frame, cell, copies) for vote, salient, cell in ranked[:-1]]
        # 2. Drop cells in this order until the excess is gone.
        dropped = []
        for _, _, frame, cell, copies in sorted(candidates):
            if excess <= 0:
                break
            dropped.append((-frame, -cell))
            excess -= copies
        trimmed = selection.kept.clone()
        trimmed[tuple(torch.tensor(dropped, device=trimmed.device).T)] = False
        return trimmed


def _bisect(below: int, above: int, holds: Callable[[int], bool]) -> int:
    """Return a number in (below, above] where `holds` becomes true; holds(above) must be true."""
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
