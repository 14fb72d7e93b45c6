"""Exact budgets: how many anchors to pick, and how many distinct tokens each frame keeps.

Published AOT keeps a number that depends on the content. Here the ratio is a promise
(docs/algorithm.md, section 6): the anchors per frame are adjusted until the keyframes fit, and the rest of the
budget is spread over the later frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from aot.types import Clip

__all__ = ["Allocation", "allocate", "anchors_for_ratio", "copies_per_clip", "even_shares", "kept_cells", "spread"]

# (share of tokens kept, anchors of 729 patches): the published settings, joined by straight lines.
_PUBLISHED_ANCHORS = ((0.0, 0), (0.10, 126), (0.15, 144), (0.20, 196), (0.25, 205), (1.0, 729))


def anchors_for_ratio(ratio: float, patches: int) -> int:
    """Anchors M per frame for a ratio between the published ones, scaled from 729 patches; at least 1."""
    for (r0, m0), (r1, m1) in pairwise(_PUBLISHED_ANCHORS):
        if ratio <= r1:
            anchors = m0 + (ratio - r0) / (r1 - r0) * (m1 - m0)
            return min(max(round(anchors * patches / 729), 1), patches)
    return patches


@dataclass(frozen=True, slots=True)
class Allocation:
    """anchors: M per frame before pooling. kept: bool [F, n]. distinct: how many tokens each frame keeps
    in addition to the keyframes (0 for keyframes); None leaves that to the content. copies: how often each clip
    emits its keyframe.
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
    """Choose anchors, kept cells and distinct counts so that exactly `budget` tokens are emitted.

    Args:
        budget: at least one token per clip, at most F * n.
        anchors: where the search starts; a nearby workable number is taken (by bisection, as selections for
            neighbouring numbers need not be nested).
        votes_for: anchors -> [F, n], the pooled anchor mask; a cell is kept from 0.5 up, and the cell
            with the most votes always is.
        saliency: [F, n], breaks ties when kept cells must be given up.
        copies: times a clip of several frames emits its keyframe; 1 where the budget has no room for more.

    Raises:
        ValueError: budget is below one token per clip.
    """
    if budget < len(clips):
        raise ValueError(f"budget: expected at least {len(clips)} (one token per clip), got {budget}")
    clip_copies = copies_per_clip(clips, copies)
    if budget < sum(clip_copies):
        clip_copies = copies_per_clip(clips, 1)
    selected = cache(lambda anchors: _Selection.of(votes_for(anchors)))  # looking at one stalls a device's queue
    plan = _Fit(budget, clips, clip_copies)
    anchors = plan.search(min(anchors, most_anchors), most_anchors, selected)
    kept, counts = selected(anchors).kept, selected(anchors).counts
    if plan.base(counts) > budget:
        kept = plan.trim(selected(anchors), saliency)
        counts = kept.sum(1).tolist()
    rest = budget - plan.base(counts)
    later = list(counts)
    for clip in clips:
        later[clip.first] = 0
    return Allocation(anchors, kept, spread(rest, later), clip_copies)


def copies_per_clip(clips: Sequence[Clip], copies: int) -> tuple[int, ...]:
    """How often each clip emits its keyframe: `copies` times, but once where there is nothing to merge."""
    return tuple(copies if len(clip) > 1 else 1 for clip in clips)


def kept_cells(votes: Tensor) -> Tensor:
    """Cells whose pooled anchor mask is at least 0.5, and each frame's highest one (docs/algorithm.md, section 3)."""
    best = _comparable(votes).argmax(-1, keepdim=True) == torch.arange(votes.shape[-1], device=votes.device)
    return (votes >= 0.5) | best


def _comparable(votes: Tensor) -> Tensor:
    """Whole numbers in the order of the votes: weights that sum up to the same in another order are equal."""
    return votes.mul(2**16).round()


def spread(total: int, capacities: Sequence[int]) -> tuple[int, ...]:
    """Share `total` in proportion to `capacities` by largest remainder, lower index first on ties.

    No share exceeds its capacity.

    Raises:
        ValueError: total is above the sum of capacities.
    """
    room = sum(capacities)
    if not 0 <= total <= room:
        raise ValueError(f"total: expected 0 to {room}, got {total}")
    if room == 0:
        return tuple(0 for _ in capacities)
    shares = [total * capacity // room for capacity in capacities]
    remainders = [total * capacity % room for capacity in capacities]
    by_remainder = sorted(range(len(shares)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def even_shares(total: int, parts: int) -> tuple[int, ...]:
    """Share `total` equally among `parts` >= 1; what cannot be shared goes to parts at even distances."""
    edges = [(2 * part * total + parts) // (2 * parts) for part in range(parts + 1)]
    return tuple(stop - start for start, stop in pairwise(edges))


@dataclass(frozen=True, slots=True)
class _Selection:
    """votes and kept: [F, n]. counts: kept cells of each frame."""

    votes: Tensor
    kept: Tensor
    counts: list[int]

    @classmethod
    def of(cls, votes: Tensor) -> _Selection:
        kept = kept_cells(votes)
        return cls(votes, kept, kept.sum(1).tolist())


@dataclass(frozen=True, slots=True)
class _Fit:
    budget: int
    clips: Sequence[Clip]
    copies: Sequence[int]

    def base(self, counts: Sequence[int]) -> int:
        """Tokens that the keyframes alone cost."""
        return sum(copies * counts[clip.first] for clip, copies in zip(self.clips, self.copies, strict=True))

    def capacity(self, counts: Sequence[int]) -> int:
        """Tokens when every kept cell of the later frames is emitted too."""
        return self.base(counts) + sum(counts) - sum(counts[clip.first] for clip in self.clips)

    def search(self, start: int, most: int, selected: Callable[[int], _Selection]) -> int:
        """A number of anchors near `start` with base <= budget <= capacity, or, where the budget
        falls into a step between two numbers, the larger, whose keyframes are then trimmed.
        """

        def bounds(anchors: int) -> tuple[int, int]:
            counts = selected(anchors).counts
            return self.base(counts), self.capacity(counts)

        base, capacity = bounds(start)
        if base <= self.budget <= capacity:
            return start
        if base > self.budget:
            fits = _bisect(0, start, lambda m: bounds(m)[0] > self.budget) - 1
            return fits if fits and bounds(fits)[1] >= self.budget else fits + 1
        return _bisect(start, most, lambda m: bounds(m)[1] >= self.budget)

    def trim(self, selection: _Selection, saliency: Tensor) -> Tensor:
        """Drop keyframe cells with the fewest votes, then the least saliency, until the keyframes fit.

        Each keyframe keeps its first cell in that order reversed, so no clip is lost.
        """
        excess = self.base(selection.counts) - self.budget
        candidates: list[tuple[float, float, int, int, int]] = []
        tables = (selection.kept, _comparable(selection.votes), saliency)
        here_kept, here_votes, here_saliency = (values.tolist() for values in tables)
        for clip, copies in zip(self.clips, self.copies, strict=True):
            frame = clip.first
            cells = [cell for cell, is_kept in enumerate(here_kept[frame]) if is_kept]
            ranked = sorted((here_votes[frame][cell], here_saliency[frame][cell], -cell) for cell in cells)
            candidates += [(vote, salient, -frame, cell, copies) for vote, salient, cell in ranked[:-1]]
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
    """The first number in (below, above] where `holds` turns true, given that it is true at `above`."""
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
