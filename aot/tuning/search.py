"""Choose what to measure next: a bracket over ratios, and a race of the methods at each ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Literal

from aot.tuning.losses import Estimate, Losses

__all__ = ["Cell", "Search", "State", "Wanted", "rungs_of"]

Cell = tuple[str, float]  # a method at a ratio
State = Literal["passes", "fails", "open", "refused", "not measured"]

_COVERAGE = 0.98  # of the intervals of the race, because there are many comparisons
_BELOW = 2  # smaller ratios that are tried after one that fails
_FEWEST = 4  # videos of the first rung; with fewer, intervals are too wide to decide


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure next: `cell` on the first `videos` videos."""

    cell: Cell
    videos: int


def rungs_of(videos: int) -> tuple[int, ...]:
    """Return the numbers of videos of the race: a quarter, then an eighth more each time."""
    return tuple(sorted({min(videos, max(_FEWEST, math.ceil(videos * eighths / 8))) for eighths in range(2, 9)}))


class Search:
    """Find the smallest ratio at which a method stays within the limit on all videos.

    `next` depends on the measured losses alone, so a search that was interrupted goes on where it
    stopped. It assumes that, apart from noise, the loss of a method grows as the ratio falls:

    1. A bracket over the ratios is halved until one ratio passes and the next smaller one does not.
       At each ratio the methods race: the most promising one is measured on more videos, that is
       the one with the lowest loss so far, here or at the nearest ratio that was measured. The
       first that stays within the limit on all videos (or is told apart from the limit before)
       decides that the ratio passes. A method is dropped when it is told apart above the limit,
       here or at a larger ratio. A ratio fails when all methods are dropped.
    2. Losses are noisy, and a smaller ratio may pass where a larger one fails. So the methods that
       are not dropped yet are measured at the next two smaller ratios, too.
    3. At the smallest ratio that passes, each method is measured on all videos, unless it is
       dropped or told apart from the best one. If no ratio passes, the lowest loss that was found
       is measured on all videos.

    Attributes:
        refused: methods at ratios that they, or the model, refuse; add to it.

    Args:
        losses: what was measured.
        methods: names of the methods.
        ratios: shares of the tokens to keep, in descending order.
        videos: number of videos.
    """

    def __init__(self, losses: Losses, methods: Sequence[str], ratios: Sequence[float], videos: int) -> None:
        self.losses, self.methods, self.ratios = losses, methods, ratios
        self.rungs = rungs_of(videos)
        self.refused: set[Cell] = set()
        self._bracket = 0, len(ratios)

    def next(self) -> Wanted | None:
        """Return what to measure next, or None if the search is over."""
        # 1. Halve the bracket: all ratios before `first` pass, all from `stop` on fail.
        first, stop = 0, len(self.ratios)
        while first < stop:
            self._bracket = first, stop
            middle = (first + stop) // 2
            passes = self._judge(middle)
            if isinstance(passes, Wanted):
                return passes
            first, stop = (middle + 1, stop) if passes else (first, middle)
        self._bracket = first, stop
        # 2. Look at the ratios below the first that fails.
        for below in range(stop + 1, min(stop + 1 + _BELOW, len(self.ratios))):
            passes = self._judge(below)
            if isinstance(passes, Wanted):
                return passes
        # 3. Measure what is left at the smallest ratio that passes.
        passing = [index for index in range(len(self.ratios)) if self._judge(index) is True]
        return self._finish(passing[-1]) if passing else self._complete_lowest()

    def chosen(self) -> int | None:
        """Return the index of the smallest ratio that passes on all videos; None if none does."""
        return max((index for index in range(len(self.ratios)) if self.passing(index)), default=None)

    def passing(self, index: int) -> list[str]:
        """Return the methods that stay within the limit on all videos, the lowest loss first."""
        found = [method for method in self.methods if self._passes(self._cell(method, index))]
        return sorted(found, key=lambda method: self.losses.estimate(self._cell(method, index)).mean)

    def lowest(self, cells: Sequence[Cell]) -> Cell | None:
        """Return the cell with the lowest loss, or None if none was measured.

        Any two are compared on the videos that both have.
        """
        found = [cell for cell in cells if self.losses.videos(cell) and cell not in self.refused]
        if not found:
            return None
        return reduce(lambda one, other: other if self.losses.difference(other, one).mean < 0 else one, found)

    def state(self, cell: Cell) -> State:
        """Return what is known of a cell; "open" is measured on some videos, and not decided."""
        if cell in self.refused:
            return "refused"
        if not self.losses.videos(cell):
            return "not measured"
        if self._passes(cell):
            return "passes"
        return "fails" if self._fails(cell) else "open"

    def left(self) -> float:
        """Return about how many pairs of a video and a cell are left to measure."""
        first, stop = self._bracket
        race = self.rungs[-1] + self.rungs[0] * len(self.methods)
        return (math.log2(stop - first + 1) + 0.5) * race

    # --- One ratio

    def _judge(self, index: int) -> bool | Wanted:
        """Return whether a method passes at a ratio, or what to measure to find out."""
        cells = [self._cell(method, index) for method in self.methods]
        if any(self._passes(cell) or self._is_below(cell) for cell in cells):
            return True
        racing = self._racing(index)
        return self._more(self._cell(racing[0], index)) if racing else False

    def _finish(self, index: int) -> Wanted | None:
        """Return what is left to measure at the chosen ratio."""
        passing = self.passing(index)
        for method in self._racing(index):
            cell = self._cell(method, index)
            if self._is_complete(cell):
                continue
            if passing and self.losses.videos(cell):
                behind = self.losses.difference(cell, self._cell(passing[0], index), _COVERAGE)
                if behind.ahead(self.rungs[-1]).is_above(0):
                    continue
            return self._more(cell)
        return None

    def _complete_lowest(self) -> Wanted | None:
        """Return what is left to measure of the lowest loss at any ratio."""
        lowest = self.lowest([*product(self.methods, self.ratios)])
        return None if lowest is None or self._is_complete(lowest) else self._more(lowest)

    def _racing(self, index: int) -> list[str]:
        """Return the methods that have not failed here or at a larger ratio, by their promise."""
        found = [method for method in self.methods if not self._is_dropped(method, index)]
        return sorted(found, key=lambda method: self._promise(method, index))

    def _is_dropped(self, method: str, index: int) -> bool:
        larger = (self._cell(method, each) for each in range(index))
        return self._fails(self._cell(method, index)) or any(self._is_above(cell) for cell in larger)

    def _promise(self, method: str, index: int) -> float:
        """Return the loss at the nearest ratio at which `method` was measured."""
        known = [each for each in range(len(self.ratios)) if self.losses.videos(self._cell(method, each))]
        if not known:
            return -math.inf
        nearest = min(known, key=lambda each: abs(each - index))
        return self.losses.estimate(self._cell(method, nearest)).mean

    def _more(self, cell: Cell) -> Wanted:
        return Wanted(cell, next(rung for rung in self.rungs if rung > self.losses.videos(cell)))

    # --- One method at one ratio

    def _cell(self, method: str, index: int) -> Cell:
        return method, self.ratios[index]

    def _is_complete(self, cell: Cell) -> bool:
        return self.losses.videos(cell) == self.rungs[-1]

    def _passes(self, cell: Cell) -> bool:
        return self._is_complete(cell) and self.losses.estimate(cell).meets(self.losses.limit)

    def _fails(self, cell: Cell) -> bool:
        """Return whether a cell is refused, or will be above the limit on all videos."""
        if cell in self.refused:
            return True
        if self._is_complete(cell):
            return not self._passes(cell)
        return self.losses.videos(cell) > 0 and self._ahead(cell).is_above(self.losses.limit)

    def _is_below(self, cell: Cell) -> bool:
        """Return whether a cell is told apart below the limit before all videos are measured."""
        is_partial = 0 < self.losses.videos(cell) < self.rungs[-1]
        return is_partial and self._ahead(cell).is_below(self.losses.limit)

    def _ahead(self, cell: Cell) -> Estimate:
        return self.losses.estimate(cell, _COVERAGE).ahead(self.rungs[-1])

    def _is_above(self, cell: Cell) -> bool:
        """Return whether a cell is refused, or told apart above the limit."""
        if cell in self.refused:
            return True
        return self.losses.videos(cell) > 0 and self.losses.estimate(cell, _COVERAGE).is_above(self.losses.limit)
