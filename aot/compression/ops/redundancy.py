"""Find redundancy in a video: clips, and the static positions of each clip.

The tokens of a static position are similar in all frames of the clip. Their mean over the frames
is one static token. All other tokens are dynamic. Static and dynamic tokens share the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.budget import spread
from aot.types import Clip

__all__ = [
    "Quota",
    "Redundancy",
    "least_similarities",
    "most_saving_clips",
    "position_similarity",
    "share_out",
]


@dataclass(frozen=True, slots=True)
class Quota:
    """Hold the number of static tokens of a clip, and of dynamic tokens of each of its frames."""

    static: int
    dynamic: tuple[int, ...]

    @property
    def total(self) -> int:
        """Return the number of static and dynamic tokens of the clip."""
        return self.static + sum(self.dynamic)


def share_out(budget: int, capacity: Sequence[Quota]) -> tuple[Quota, ...]:
    """Divide `budget` in proportion to `capacity`, which has one quota per clip.

    Every number of a quota (`static`, and `dynamic` per frame) gets its own share. Each share with
    a capacity above 0 is at least one token if `budget` suffices. Rounding is by largest remainder;
    ties go to the earlier clip, then to `static`, then to the earlier frame.

    Raises:
        ValueError: If `budget` is above the sum of the capacities.
    """
    shares = iter(_share([part for quota in capacity for part in (quota.static, *quota.dynamic)], budget))
    return tuple(Quota(next(shares), tuple(next(shares) for _ in quota.dynamic)) for quota in capacity)


def _share(capacities: Sequence[int], budget: int) -> Sequence[int]:
    """Divide `budget` proportionally; if it suffices, each capacity above 0 gets at least 1."""
    if budget < sum(capacity > 0 for capacity in capacities):
        return spread(budget, capacities)
    single = [False] * len(capacities)  # which parts get one token because the share rounds to 0
    # These tokens reduce the other shares, and further shares can round to 0: repeat until none is.
    while True:
        others = [0 if one else capacity for one, capacity in zip(single, capacities, strict=True)]
        shares = [one + share for one, share in zip(single, spread(budget - sum(single), others), strict=True)]
        if all(share or not capacity for share, capacity in zip(shares, capacities, strict=True)):
            return shares
        single = [one or share == 0 < capacity for one, share, capacity in zip(single, shares, capacities, strict=True)]


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Hold the clips of a video and their static positions.

    Attributes:
        clips: S clips that cover all frames.
        similarity: [S, n], the similarity of a position's tokens over the frames of a clip; -inf in
            a clip of one frame.
        static: bool [S, n], whether a position's tokens in a clip are merged into their mean.
    """

    clips: tuple[Clip, ...]
    similarity: Tensor
    static: Tensor

    @classmethod
    def above(cls, threshold: float, clips: Sequence[Clip], similarity: Iterable[Tensor]) -> Redundancy:
        """Return a redundancy in which positions with a similarity above `threshold` are static.

        `similarity` yields the similarities of all positions, [n], for each of the `clips`.
        """
        table = torch.stack(list(similarity))
        return cls(tuple(clips), table, table > threshold)

    def capacity(self) -> tuple[Quota, ...]:
        """Return the number of tokens of each clip after merging the static positions."""
        positions = self.static.shape[1]
        counts = self.static.sum(1).tolist()
        return tuple(
            Quota(count, (positions - count,) * len(clip)) for clip, count in zip(self.clips, counts, strict=True)
        )

    def with_room_for(self, budget: int) -> Redundancy:
        """Return a copy with so few static positions that at least `budget` tokens remain.

        The least similar static positions become dynamic first. Ties go to the earlier clip, then
        to the lower position. `budget` is at most F * n.
        """
        missing = budget - sum(quota.total for quota in self.capacity())
        if missing <= 0:
            return self
        # A position of a clip of W frames gains W - 1 tokens when it becomes dynamic.
        wins = torch.tensor([len(clip) - 1 for clip in self.clips], device=self.static.device)
        ranked = self.similarity.masked_fill(~self.static, torch.inf).flatten().sort(stable=True).indices
        # Release a position if all positions with a better rank gain fewer tokens than are missing.
        won = (wins[:, None] * self.static).flatten()[ranked]
        released = torch.zeros_like(self.static).flatten()
        released[ranked] = won.cumsum(0) - won < missing
        return replace(self, static=self.static & ~released.view_as(self.static))


def position_similarity(features: Tensor) -> Tensor:
    """Return [n]: each position's mean cosine similarity over all pairs of frames.

    `features` is [W, n, D] for W frames; if W is 1, the result is -inf. The time grows with W, not
    with W^2.
    """
    frames = len(features)
    if frames == 1:
        return features.new_full(features.shape[1:2], -torch.inf)
    # |sum of unit vectors|^2 is the sum of the cosines of all pairs, including (i, i).
    unit = functional.normalize(features, dim=-1)
    own = unit.square().sum((0, 2))
    pairs: Tensor = (unit.sum(0).square().sum(-1) - own) / (frames * (frames - 1))
    return pairs


def least_similarities(similarity: Tensor, clips: Sequence[Clip]) -> list[Tensor]:
    """Return a tensor [n] per clip: each position's lowest similarity between adjacent frames.

    The value is -inf in a clip of one frame. `similarity` [F - 1, n] has the similarities between
    frames i and i + 1 at the same position.
    """
    nothing = similarity.new_full(similarity.shape[1:], -torch.inf)
    return [similarity[clip.first : clip.stop - 1].amin(0) if len(clip) > 1 else nothing for clip in clips]


def most_saving_clips(alike: Tensor) -> tuple[Clip, ...]:
    """Return the clips whose static positions save the most tokens (HoliTom, arXiv 2505.21334).

    `alike` is bool [F - 1, n]: whether a position stays the same from one frame to the next. A clip
    of W frames saves W - 1 tokens for every position that stays the same in all W frames. Dynamic
    programming finds the optimum; ties go to the shorter last clip.
    """
    # 1. best[stop]: the largest number of tokens that clips of frames 0 .. stop - 1 can save.
    saved = _savings(alike)
    frames = len(saved)
    best = torch.zeros(frames + 1, dtype=torch.long)
    lengths = [0] * (frames + 1)
    for stop in range(1, frames + 1):
        candidates = best[:stop].flip(0) + saved[stop - 1, :stop]
        lengths[stop] = int(candidates.argmax()) + 1
        best[stop] = candidates[lengths[stop] - 1]
    # 2. Follow the lengths of the last clips back from the end.
    clips = []
    stop = frames
    while stop:
        clips.append(Clip(stop - lengths[stop], stop))
        stop -= lengths[stop]
    return tuple(reversed(clips))


def _savings(alike: Tensor) -> Tensor:
    """Return the number of tokens that each possible clip saves, int64 [F, F] on the CPU.

    Entry [e, w] is for the clip of w + 1 frames whose last frame is e.
    """
    steps = len(alike)
    # 1. Per step and position: the number of steps since the last change, 0 at a change.
    step = torch.arange(steps, device=alike.device)[:, None]
    streak = step - torch.where(alike, -1, step).cummax(0).values
    # 2. counts[e, w]: the number of positions that are the same for exactly w steps before frame e.
    counts = torch.zeros(steps + 1, steps + 1, dtype=torch.long, device=alike.device)
    counts[1:].scatter_add_(1, streak, torch.ones_like(streak))
    # 3. Positions with w steps or more are static in the clip [e, w]; each saves w tokens.
    enduring = counts.flip(1).cumsum(1).flip(1)
    return (enduring * torch.arange(steps + 1, device=alike.device)).cpu()
