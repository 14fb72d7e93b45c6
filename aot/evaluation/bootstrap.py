"""Estimate confidence intervals of accuracies with a cluster bootstrap.

Whole videos are resampled, because the questions about one video are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Resampling"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None with fewer than two videos."""

    mean: float
    low: float | None
    high: float | None


class Resampling:
    """Resample videos with the same draws for every condition, so that differences are paired.

    `micro`, `macro` and `family` take an array `scores` with one number per question. For a paired
    difference, pass the scores of one condition minus the scores of the other. The interval is
    Efron's percentile interval of the cluster bootstrap (Davison and Hinkley, Bootstrap Methods and
    their Application, section 3.8).

    Args:
        groups: index of the video of each question, 0 .. V - 1.
        families: index of the family of each question, 0 .. T - 1.
        draws: number of resamples.
        seed: seed of the random draws.
    """

    def __init__(self, groups: Sequence[int], families: Sequence[int], draws: int = 2000, seed: int = 0) -> None:
        self.groups, self.families = np.asarray(groups), np.asarray(families)
        videos = int(self.groups.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(videos, np.full(videos, 1 / videos), size=draws)
        # The first row is the original data.
        self.weights: Floats = np.concatenate([np.ones((1, videos)), drawn])

    def micro(self, scores: Floats) -> Interval:
        """Return the mean of `scores` over all questions, with its interval."""
        return self._interval(self._means(scores)[0])

    def draws(self, scores: Floats) -> Floats:
        """Return the mean of `scores` over all questions in each resample of the videos."""
        return self._ratio(scores, np.ones(len(scores), bool))[1:]

    def macro(self, scores: Floats) -> Interval:
        """Return the mean of the family means of `scores`, with its interval."""
        return self._interval(self._means(scores)[1])

    def family(self, scores: Floats, family: int) -> Interval:
        """Return the mean of `scores` over the family with index `family`, with its interval."""
        mine = self.families == family
        return self._interval(self._ratio(scores, mine), mine)

    def _means(self, scores: Floats) -> tuple[Floats, Floats]:
        """Return the micro means and the macro means: for the original data, then for each draw."""
        everything = np.ones(len(scores), bool)
        kinds = [self._ratio(scores, self.families == family) for family in np.unique(self.families)]
        return self._ratio(scores, everything), np.nanmean(np.stack(kinds), axis=0)

    def _ratio(self, scores: Floats, mine: NDArray[np.bool_]) -> Floats:
        """Return the mean of `scores[mine]` in the original data and each draw; NaN if empty."""
        videos = self.weights.shape[1]
        sums = np.bincount(self.groups[mine], weights=scores[mine], minlength=videos)
        counts = np.bincount(self.groups[mine], minlength=videos)
        with np.errstate(invalid="ignore"):
            ratio: Floats = (self.weights @ sums) / (self.weights @ counts)
        return ratio

    def _interval(self, values: Floats, mine: NDArray[np.bool_] | slice = slice(None)) -> Interval:
        """Return `values[0]` with the 95 % interval of `values[1:]`.

        The bounds are None if all questions in `mine` are about the same video.
        """
        # Resampling one video always gives this video, so the variance is unknown.
        if len(np.unique(self.groups[mine])) < 2:
            return Interval(float(values[0]), None, None)
        low, high = (float(bound) for bound in np.nanpercentile(values[1:], [2.5, 97.5]))
        return Interval(float(values[0]), low, high)
