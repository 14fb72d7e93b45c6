"""How far an accuracy may be off. Whole videos are drawn again, because the questions of one video are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Resampling"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % percentile interval, which is not available (None) of fewer than two videos."""

    mean: float
    low: float | None
    high: float | None


class Resampling:
    """The same draws of videos for every condition, so that differences are paired.

    groups: the video of every question, 0 .. V - 1; families: its family, 0 .. T - 1. Scores are arrays of one number
    per question; for a paired difference, the difference of two conditions' scores. The interval is Efron's percentile
    interval of the cluster bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, section 3.8).
    """

    def __init__(self, groups: Sequence[int], families: Sequence[int], draws: int = 2000, seed: int = 0) -> None:
        self.groups, self.families = np.asarray(groups), np.asarray(families)
        videos = int(self.groups.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(videos, np.full(videos, 1 / videos), size=draws)
        self.weights: Floats = np.concatenate([np.ones((1, videos)), drawn])  # the first row is the data as it is

    def micro(self, scores: Floats) -> Interval:
        """Mean over questions."""
        return self._interval(self._means(scores)[0])

    def macro(self, scores: Floats) -> Interval:
        """Mean over families of their means."""
        return self._interval(self._means(scores)[1])

    def family(self, scores: Floats, family: int) -> Interval:
        """Mean over the questions of one family."""
        mine = self.families == family
        return self._interval(self._ratio(scores, mine), mine)

    def _means(self, scores: Floats) -> tuple[Floats, Floats]:
        everything = np.ones(len(scores), bool)
        kinds = [self._ratio(scores, self.families == family) for family in np.unique(self.families)]
        return self._ratio(scores, everything), np.nanmean(np.stack(kinds), axis=0)

    def _ratio(self, scores: Floats, mine: NDArray[np.bool_]) -> Floats:
        """For every draw the weighted mean of the chosen questions' scores; NaN where the draw has none of them."""
        videos = self.weights.shape[1]
        sums = np.bincount(self.groups[mine], weights=scores[mine], minlength=videos)
        counts = np.bincount(self.groups[mine], minlength=videos)
        with np.errstate(invalid="ignore"):
            ratio: Floats = (self.weights @ sums) / (self.weights @ counts)
        return ratio

    def _interval(self, values: Floats, mine: NDArray[np.bool_] | slice = slice(None)) -> Interval:
        """The first value, and the percentiles of the others if the chosen questions are about two videos or more:
        one video drawn again is the same video, which says nothing of others.
        """
        if len(np.unique(self.groups[mine])) < 2:
            return Interval(float(values[0]), None, None)
        low, high = (float(bound) for bound in np.nanpercentile(values[1:], [2.5, 97.5]))
        return Interval(float(values[0]), low, high)
