"""Estimate losses and their differences from the videos that were measured so far."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from aot.evaluation.bootstrap import Floats, Resampling

__all__ = ["Estimate", "Losses"]

_SMALLEST = 1e-9  # losses nearer to a limit are equal to it; they are sums of rounded terms


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of a loss over questions, with its interval over videos.

    Attributes:
        videos: number of videos.
        mean: mean over all questions about these videos.
        low: lower end of the interval; None with fewer than two videos.
        high: upper end of the interval; None with fewer than two videos.
        spread: estimated standard deviation of the mean over sets of so many videos.
        within: share of the resamples whose mean is at most the limit; None with fewer than two.
    """

    videos: int
    mean: float
    low: float | None
    high: float | None
    spread: float = 0.0
    within: float | None = None

    def is_above(self, limit: float) -> bool:
        """Return whether the whole interval is above `limit`."""
        return self.low is not None and self.low > limit + _SMALLEST

    def is_below(self, limit: float) -> bool:
        """Return whether the whole interval is below `limit`."""
        return self.high is not None and self.high < limit - _SMALLEST

    def ahead(self, videos: int) -> Estimate:
        """Return the interval of what the mean will be when `videos` videos are measured.

        The deviations shrink by the finite population correction: part of the mean is known.
        """
        if self.low is None or self.high is None:
            return self
        rest = math.sqrt(max(1 - self.videos / videos, 0))
        low, high = (self.mean + rest * (bound - self.mean) for bound in (self.low, self.high))
        return replace(self, low=low, high=high)

    def at_least(self, floor: float) -> Estimate:
        """Return the estimate of a loss that is never below `floor`, to be shown.

        The race needs the interval as it is.
        """
        return self if self.low is None else replace(self, low=max(self.low, floor))

    def meets(self, limit: float) -> bool:
        """Return whether the mean itself is at most `limit`."""
        return self.mean <= limit + _SMALLEST


class Losses:
    """The losses of conditions on the first videos of a fixed order, one value per question.

    Intervals are the mean plus and minus its standard deviation over resamples of the videos, times
    the quantile of Student's t: percentiles of the resamples are too narrow with few videos. All
    estimates from the same videos have the same resamples.

    Args:
        limit: the largest loss that is allowed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._losses: dict[Hashable, list[Sequence[float]]] = {}
        self._estimates: dict[tuple[Hashable, ...], Estimate] = {}
        self._resamplings: dict[tuple[int, ...], Resampling] = {}

    def add(self, condition: Hashable, losses: Sequence[float]) -> None:
        """Add the losses of `condition` on the next video, one per question."""
        self._losses.setdefault(condition, []).append(losses)

    def videos(self, condition: Hashable) -> int:
        """Return on how many videos `condition` was measured."""
        return len(self._losses.get(condition, ()))

    def on_video(self, condition: Hashable, video: int) -> float:
        """Return the mean loss of `condition` on one video."""
        return float(np.mean(self._losses[condition][video]))

    def estimate(self, condition: Hashable, coverage: float = 0.95) -> Estimate:
        """Return the loss of `condition` on the videos on which it was measured."""
        return self._estimated((condition,), self.videos(condition), coverage)

    def difference(self, one: Hashable, other: Hashable, coverage: float = 0.95) -> Estimate:
        """Return the loss of `one` minus that of `other`, on the videos that both have (paired)."""
        return self._estimated((one, other), min(self.videos(one), self.videos(other)), coverage)

    def _estimated(self, conditions: tuple[Hashable, ...], videos: int, coverage: float) -> Estimate:
        key = (*conditions, videos, coverage)
        if key not in self._estimates:
            measured = [self._losses[each][:videos] for each in conditions]
            first, *others = (np.concatenate([np.asarray(video, float) for video in each]) for each in measured)
            self._estimates[key] = self._of(first - sum(others), tuple(map(len, measured[0])), coverage)
        return self._estimates[key]

    def _of(self, losses: Floats, questions: tuple[int, ...], coverage: float) -> Estimate:
        videos, mean = len(questions), float(losses.mean())
        if videos < 2:
            return Estimate(videos, mean, None, None)
        if questions not in self._resamplings:
            groups = np.repeat(np.arange(videos), questions)
            self._resamplings[questions] = Resampling(groups.tolist(), [0] * len(groups))
        draws = self._resamplings[questions].draws(losses)
        within = float(np.mean(draws <= self.limit + _SMALLEST))
        # The spread over resamples is too small by the root of (n - 1) / n.
        spread = float(draws.std()) * math.sqrt(videos / (videos - 1))
        half = _t(coverage, videos - 1) * spread
        return Estimate(videos, mean, mean - half, mean + half, spread, within)


def _t(coverage: float, freedom: int) -> float:
    """Return the quantile of Student's t for a two-sided interval.

    From the normal quantile (Abramowitz and Stegun 26.7.5), and exactly for 1 and 2.
    """
    p = (1 + coverage) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum((term / float(freedom) ** power for power, term in enumerate(terms)), 0.0)
