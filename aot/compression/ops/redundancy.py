"""Find redundancy in a video: clips, and the static positions of each clip.

The tokens of a static position are similar in all frames of the clip. Their mean over the frames
is one static token. All other tokens are dynamic. Static and dynamic tokens share the budget.
Values of clips are stored for each frame, because the host does not know the number of clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.budget import spread_rows
from aot.compression.ops.clips import CutClips
from aot.compression.ops.group_means import group_sums
from aot.compression.ops.padding import fixed_point, longest, packed, true_indices
from aot.compression.ops.products import take_rows

__all__ = [
    "Quota",
    "Redundancy",
    "TokenSets",
    "least_similarity",
    "most_saving_clips",
    "position_similarity",
    "share_out",
]


@dataclass(frozen=True, slots=True)
class Quota:
    """Hold numbers of static and dynamic tokens.

    Attributes:
        static: int64 [F], the number of static tokens of a clip at its first frame, else 0.
        dynamic: int64 [F], the number of dynamic tokens of each frame.
    """

    static: Tensor
    dynamic: Tensor

    @property
    def total(self) -> Tensor:
        """Return the number of all tokens: int64 []."""
        return self.static.sum() + self.dynamic.sum()


def share_out(budget: int, capacity: Quota) -> Quota:
    """Divide `budget` in proportion to `capacity`; every number gets its own share.

    Each share with a capacity above 0 is at least one token if `budget` suffices. Rounding is by
    largest remainder; ties go to the earlier clip, then to `static`, then to the earlier frame.
    `budget` must be at most the sum of the capacities.
    """
    parts = torch.stack([capacity.static, capacity.dynamic], 1).flatten()
    return Quota(*_share(parts, budget).view(-1, 2).unbind(1))


def _share(capacities: Tensor, budget: int) -> Tensor:
    """Divide `budget` proportionally; if it suffices, each capacity above 0 gets at least 1."""
    # 1. Shares that round to 0 become 1. These tokens reduce the other shares, and further shares
    # can round to 0. The lowest capacities come first; ties go to the higher index.
    is_part = capacities > 0
    order = torch.where(is_part, capacities, capacities.max() + 1).flip(0).argsort(stable=True)
    rank = order.argsort().flip(0)

    def shares(singles: Tensor) -> Tensor:
        """Return the shares [r, P] if the first singles[r] parts get one token each."""
        is_single = is_part & (rank < singles[:, None])
        return is_single + spread_rows(budget - singles, torch.where(is_single, 0, capacities))

    # 2. Repeat until none is 0. A budget that is too low for all is shared as it is.
    singles = fixed_point(
        lambda singles: singles + (is_part & (shares(singles) == 0)).sum(1), len(capacities), capacities.device
    )
    return shares(torch.where(is_part.sum() > budget, 0, singles))[0]


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Hold the clips of a video and their static positions.

    Attributes:
        clips: the clips.
        similarity: [F, n], the similarity of a position's tokens over the frames of the clip; -inf
            in a clip of one frame.
        static: bool [F, n], whether a position's tokens in the clip are merged into their mean.
    """

    clips: CutClips
    similarity: Tensor
    static: Tensor

    @classmethod
    def above(cls, threshold: float, clips: CutClips, similarity: Tensor) -> Redundancy:
        """Return a redundancy in which positions with a similarity above `threshold` are static."""
        return cls(clips, similarity, similarity > threshold)

    def capacity(self) -> Quota:
        """Return the number of tokens of each clip after merging the static positions."""
        counts = self.static.sum(1)
        return Quota(counts * self.clips.starts, self.static.shape[1] - counts)

    def with_room_for(self, budget: int) -> Redundancy:
        """Return a copy with so few static positions that at least `budget` tokens remain.

        The least similar static positions become dynamic first. Ties go to the earlier clip, then
        to the lower position. `budget` is at most F * n.
        """
        missing = budget - self.capacity().total
        # A position of a clip of W frames gains W - 1 tokens when it becomes dynamic. Each clip is
        # ranked once, at its first frame.
        static = self.static & self.clips.starts[:, None]
        ranked = self.similarity.masked_fill(~static, torch.inf).flatten().sort(stable=True).indices
        # Release a position if all positions with a better rank gain fewer tokens than are missing.
        won = ((self.clips.length - 1)[:, None] * static).flatten()[ranked]
        released = torch.zeros_like(static).flatten().scatter_(0, ranked, won.cumsum(0) - won < missing)
        return replace(self, static=(static & ~released.view_as(static))[self.clips.first])


@dataclass(frozen=True, slots=True)
class TokenSets:
    """Hold sets of static tokens, one for each clip, or of dynamic tokens, one for each frame.

    Attributes:
        values: [B, P, D], the tokens of B sets, padded to P tokens.
        cells: int64 [B, P], their positions, ascending.
        valid: bool [B, P], false for padding.
        first: int64 [B], the first frame of each set.
        length: int64 [B], the number of frames over which each token of the set is averaged.
        number: int64 [W], the set of each of W frames.
        per_frame: n, the number of positions.
    """

    values: Tensor
    cells: Tensor
    valid: Tensor
    first: Tensor
    length: Tensor
    number: Tensor
    per_frame: int

    @classmethod
    def static(cls, features: Tensor, redundancy: Redundancy, frames: slice) -> TokenSets:
        """Return the means of the static positions of the clips in `frames`.

        `features` is [F, n, D]; `frames` is one of `CutClips.batches`.
        """
        clips = redundancy.clips.within(frames)
        # 1. The static positions of each clip.
        sets = longest(clips.number[-1:] + 1, len(clips.starts))
        first = true_indices(clips.starts, sets)
        is_set = torch.arange(sets, device=first.device) <= clips.number[-1]
        cells, valid = packed(redundancy.static[frames][first] & is_set[:, None], features.shape[1])
        # 2. Their means.
        tokens = take_rows(features[frames], cells[clips.number])
        sums = group_sums(tokens.flatten(1), clips.number, sets).view(sets, -1, features.shape[2])
        length = clips.length[first]
        return cls(
            sums / length[:, None, None], cells, valid, frames.start + first, length, clips.number, features.shape[1]
        )

    @classmethod
    def dynamic(cls, features: Tensor, redundancy: Redundancy, frames: slice) -> TokenSets:
        """Return the dynamic tokens of the `frames`."""
        cells, valid = packed(~redundancy.static[frames], features.shape[1])
        number = torch.arange(len(cells), device=cells.device)
        values = take_rows(features[frames], cells)
        return cls(values, cells, valid, frames.start + number, torch.ones_like(number), number, features.shape[1])

    def counts(self, of_frames: Tensor) -> Tensor:
        """Return the entry of each set's first frame in `of_frames` [F]; 0 for an empty set."""
        return torch.where(self.valid.any(1), of_frames[self.first], 0)


def position_similarity(features: Tensor, clips: CutClips) -> Tensor:
    """Return [F, n]: each position's mean cosine similarity over all pairs of frames of the clip.

    `features` is [F, n, D]. In a clip of one frame, the result is -inf. The time grows with F, not
    with F^2.
    """
    pairs = torch.cat([_cosines_of_pairs(features[frames], clips.within(frames)) for frames in clips.batches()])
    length = clips.length[:, None]
    return torch.where(length > 1, pairs / (length * (length - 1)).clamp_min(1), -torch.inf)


def _cosines_of_pairs(features: Tensor, clips: CutClips) -> Tensor:
    """Return each position's sum of cosines over all ordered pairs of frames of a clip: [F, n]."""
    # |sum of unit vectors|^2 is the sum of the cosines of all pairs, including (i, i).
    unit = functional.normalize(features, dim=-1)
    sets = longest(clips.number[-1:] + 1, len(features))
    own = group_sums(unit.square().sum(-1), clips.number, sets)
    sums = group_sums(unit.flatten(1), clips.number, sets).view(sets, *features.shape[1:])
    return (sums.square().sum(-1) - own)[clips.number]


def least_similarity(similarity: Tensor, clips: CutClips) -> Tensor:
    """Return [F, n]: each position's lowest similarity between adjacent frames of the clip.

    The value is -inf in a clip of one frame. `similarity` [F - 1, n] has the similarities between
    frames i and i + 1 at the same position.
    """
    frames, positions = len(similarity) + 1, similarity.shape[1]
    # The step from one clip to the next has no effect.
    within = similarity.masked_fill(clips.starts[1:, None], torch.inf)
    least = similarity.new_full((frames, positions), torch.inf)
    least.scatter_reduce_(0, clips.number[1:, None].expand_as(within), within, "amin")
    return least[clips.number].masked_fill((clips.length == 1)[:, None], -torch.inf)


def most_saving_clips(alike: Tensor) -> CutClips:
    """Return the clips whose static positions save the most tokens (HoliTom, arXiv 2505.21334).

    `alike` is bool [F - 1, n]: whether a position stays the same from one frame to the next. A clip
    of W frames saves W - 1 tokens for every position that stays the same in all W frames. Dynamic
    programming finds the optimum; ties go to the shorter last clip.
    """
    # 1. saved[e, w] is for the clip of w + 1 frames whose last frame is e; it begins at e - w.
    saved = _savings(alike)
    frames, device = len(saved), saved.device
    frame = torch.arange(frames, device=device)
    first = frame[:, None] - frame
    by_first = saved.gather(1, first.clamp_min(0))
    # 2. best[stop]: the largest number of tokens that clips of frames 0 .. stop - 1 can save.
    best = saved.new_zeros(frames + 1)
    for stop in range(1, frames + 1):
        torch.amax(best[:stop] + by_first[stop - 1, :stop], 0, out=best[stop])
    # 3. The last clip of the frames 0 .. stop - 1 begins at previous[stop].
    candidates = (best[first.clamp_min(0)] + saved).masked_fill(first < 0, -1)
    previous = torch.cat([frame[:1], frame - candidates.argmax(1)])
    # 4. Follow the last clips back from the end; each step doubles the number of clips followed.
    starts = torch.cat([torch.zeros_like(frame), torch.ones_like(frame[:1])])
    for _ in range(frames.bit_length()):
        starts = starts.index_add(0, previous, starts).clamp_max(1)
        previous = previous[previous]
    return CutClips(starts[:-1] > 0)


def _savings(alike: Tensor) -> Tensor:
    """Return the number of tokens that each possible clip saves, int64 [F, F].

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
    return enduring * torch.arange(steps + 1, device=alike.device)
