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
        spread: standard deviation of the mean over resamples of the videos.
        within: share of the resamples whose mean is at most the limit; None with fewer than two.
    """

    videos: int
    mean: float
    low: float | None
    high: float | None
    spread: float = 0.0
    within: float | None = None

    def is_above(self, limit: float) -> bool:
        """Return whether the loss is told apart from `limit`, and is larger."""
        return self.low is not None and self.low > limit + _SMALLEST

    def is_below(self, limit: float) -> bool:
        """Return whether the loss is told apart from `limit`, and is smaller."""
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

    def meets(self, limit: float) -> bool:
        """Return whether the mean itself is at most `limit`."""
        return self.mean <= limit + _SMALLEST


class Losses:
    """The losses of conditions on the first videos of a fixed order, one value per question.

    Intervals are expanded percentile intervals of a bootstrap over videos (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015, section 4.1.2): with few videos the plain ones
    are too narrow. All estimates from the same videos have the same resamples.

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
        tail = _tail(coverage, videos)
        low, high = (float(bound) for bound in np.quantile(draws, [tail, 1 - tail]))
        within = float(np.mean(draws <= self.limit + _SMALLEST))
        return Estimate(videos, mean, low, high, float(draws.std()), within)


def _tail(coverage: float, videos: int) -> float:
    """Return the share of resamples on each side of the interval from so many videos."""
    freedom = videos - 1
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    # Student's t from the normal quantile (Abramowitz and Stegun 26.7.5).
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    t = z + sum(term / freedom**power for power, term in enumerate(terms, 1))
    return NormalDist().cdf(-math.sqrt(videos / freedom) * t)
