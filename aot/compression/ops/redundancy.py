"""What a video repeats: segments of frames, in each the positions that stay the same, and who gets the budget.

A static position gives one token per segment, the mean over its frames; every other token is dynamic.
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
    "places_of",
    "position_similarity",
    "share_out",
]


@dataclass(frozen=True, slots=True)
class Quota:
    """How many tokens a segment has or keeps: its static ones, and the dynamic ones of each of its frames."""

    static: int
    dynamic: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.static + sum(self.dynamic)


def share_out(budget: int, capacity: Sequence[Quota]) -> tuple[Quota, ...]:
    """Every static set and every frame its share of `budget` in proportion to its capacity: `spread`, in their order.

    None that has a token is left without one, unless the budget is below their number.

    Raises:
        ValueError: budget is above the sum of capacities.
    """
    shares = iter(_share([part for quota in capacity for part in (quota.static, *quota.dynamic)], budget))
    return tuple(Quota(next(shares), tuple(next(shares) for _ in quota.dynamic)) for quota in capacity)


def _share(capacities: Sequence[int], budget: int) -> Sequence[int]:
    if budget < sum(capacity > 0 for capacity in capacities):
        return spread(budget, capacities)
    single = [False] * len(capacities)  # where one token is more than the share would be
    while True:
        others = [0 if one else capacity for one, capacity in zip(single, capacities, strict=True)]
        shares = [one + share for one, share in zip(single, spread(budget - sum(single), others), strict=True)]
        if all(share or not capacity for share, capacity in zip(shares, capacities, strict=True)):
            return shares
        single = [one or share == 0 < capacity for one, share, capacity in zip(single, shares, capacities, strict=True)]


@dataclass(frozen=True, slots=True)
class Redundancy:
    """clips: S segments that cover all frames. similarity: [S, n], how alike the tokens of a position are over its
    segment, -inf in a segment of one frame. static: bool [S, n], whether one mean stands for them.
    """

    clips: tuple[Clip, ...]
    similarity: Tensor
    static: Tensor

    @classmethod
    def above(cls, threshold: float, clips: Sequence[Clip], similarity: Iterable[Tensor]) -> Redundancy:
        """Static where `similarity`, [n] for each segment, is above `threshold`."""
        table = torch.stack(list(similarity))
        return cls(tuple(clips), table, table > threshold)

    def capacity(self) -> tuple[Quota, ...]:
        """The tokens that remain once static positions are averaged."""
        positions = self.static.shape[1]
        counts = self.static.sum(1).tolist()
        return tuple(
            Quota(count, (positions - count,) * len(clip)) for clip, count in zip(self.clips, counts, strict=True)
        )

    def with_room_for(self, budget: int) -> Redundancy:
        """As many static positions become dynamic again as it takes to have `budget` tokens, the least similar first.

        Of equal ones the earlier segment's, then the lower position. `budget` is at most F * n.
        """
        missing = budget - sum(quota.total for quota in self.capacity())
        if missing <= 0:
            return self
        wins = torch.tensor([len(clip) - 1 for clip in self.clips], device=self.static.device)
        ranked = self.similarity.masked_fill(~self.static, torch.inf).flatten().sort(stable=True).indices
        won = (wins[:, None] * self.static).flatten()[ranked]
        released = torch.zeros_like(self.static).flatten()
        released[ranked] = won.cumsum(0) - won < missing
        return replace(self, static=self.static & ~released.view_as(self.static))


def places_of(clip: Clip, where: Tensor, positions: int) -> Tensor:
    """The places of positions `where` [m], of n a frame, in each frame of a clip: int64 [W, m], into all F * n."""
    return torch.arange(clip.first, clip.stop, device=where.device)[:, None] * positions + where


def position_similarity(features: Tensor) -> Tensor:
    """Mean cosine of each position of features [W, n, D] over all pairs of different frames: [n]; -inf if W is 1.

    From the length of the sum of unit vectors, so that its cost grows with W and not with its square.
    """
    frames = len(features)
    if frames == 1:
        return features.new_full(features.shape[1:2], -torch.inf)
    unit = functional.normalize(features, dim=-1)
    own = unit.square().sum((0, 2))
    pairs: Tensor = (unit.sum(0).square().sum(-1) - own) / (frames * (frames - 1))
    return pairs


def least_similarities(similarity: Tensor, clips: Sequence[Clip]) -> list[Tensor]:
    """The least `similarity` [F - 1, n] of a frame with the next within each clip: [n], -inf in a clip of one frame."""
    nothing = similarity.new_full(similarity.shape[1:], -torch.inf)
    return [similarity[clip.first : clip.stop - 1].amin(0) if len(clip) > 1 else nothing for clip in clips]


def most_saving_clips(alike: Tensor) -> tuple[Clip, ...]:
    """The segments whose static positions save the most tokens (HoliTom, arXiv 2505.21334).

    alike: bool [F - 1, n], whether a position stays the same from one frame to the next. A segment of W frames saves
    W - 1 tokens for every position that stays the same throughout. Found by dynamic programming; of equal savings the
    shorter last segment.
    """
    saved = _savings(alike)
    frames = len(saved)
    best = torch.zeros(frames + 1, dtype=torch.long)
    lengths = [0] * (frames + 1)
    for stop in range(1, frames + 1):
        candidates = best[:stop].flip(0) + saved[stop - 1, :stop]
        lengths[stop] = int(candidates.argmax()) + 1
        best[stop] = candidates[lengths[stop] - 1]
    clips = []
    stop = frames
    while stop:
        clips.append(Clip(stop - lengths[stop], stop))
        stop -= lengths[stop]
    return tuple(reversed(clips))


def _savings(alike: Tensor) -> Tensor:
    """Tokens saved by the segment of w + 1 frames that ends with frame e: int64 [F, F] on the CPU, [e, w]."""
    steps = len(alike)
    step = torch.arange(steps, device=alike.device)[:, None]
    streak = step - torch.where(alike, -1, step).cummax(0).values
    counts = torch.zeros(steps + 1, steps + 1, dtype=torch.long, device=alike.device)
    counts[1:].scatter_add_(1, streak, torch.ones_like(streak))
    enduring = counts.flip(1).cumsum(1).flip(1)  # positions whose streak is of w steps or more
    return (enduring * torch.arange(steps + 1, device=alike.device)).cpu()
