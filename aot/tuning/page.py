"""Draw the page of a result: the trade-off curve, the figures, and the videos that lose most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

from aot.reports.html.render import style_sheet
from aot.text import visible
from aot.tuning.losses import Estimate
from aot.tuning.verdict import Measured, Tuned
from aot.tuning.words import answer, explanations, loss_text, percent

__all__ = ["render_page"]

_WIDTH, _HEIGHT = 640, 320
_GAP = 15  # between two names
_DODGE = 5  # between the intervals of two methods


@dataclass(frozen=True, slots=True)
class _Mark:
    """A measured loss: its place, its interval, and whether it is above the axis.

    `is_partly` is whether it was measured on some of the videos only.
    """

    x: float
    y: float
    top: float
    bottom: float
    is_beyond: bool
    is_partly: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Line:
    """The losses of a method, and where its name is."""

    method: str
    marks: tuple[_Mark, ...]
    name_y: float

    @property
    def points(self) -> str:
        """Return the places of the marks, for a polyline."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


class _Axes:
    """Map ratios (logarithmic, the largest on the left) and losses to places."""

    def __init__(self, tuned: Tuned) -> None:
        ratios = [each.ratio for each in tuned.measured]
        self._left, self._right = math.log(max(ratios)), math.log(min(ratios))
        of_choice = tuned.choice.measured.loss if tuned.choice else None
        nearest = of_choice or (tuned.closest.loss if tuned.closest else None)
        high = nearest.high if nearest and nearest.high is not None else nearest.mean if nearest else 0.0
        low = nearest.low if nearest and nearest.low is not None else 0.0
        # Losses far above the limit do not matter; they would flatten the rest.
        self.top = max(4 * tuned.limit, 1.5 * high) or 1.0
        self.bottom = min(0.0, 1.2 * low) if tuned.by == "accuracy" else 0.0

    def x(self, ratio: float) -> float:
        """Return the horizontal place of a ratio."""
        span = self._left - self._right
        return _WIDTH * (self._left - math.log(ratio)) / span if span else _WIDTH / 2

    def y(self, loss: float) -> float:
        """Return the vertical place of a loss, which may be above the axis."""
        return _HEIGHT * (self.top - loss) / (self.top - self.bottom)

    def ticks(self) -> list[float]:
        """Return three to seven round losses."""
        step = 10 ** math.floor(math.log10((self.top - self.bottom) / 2))
        step = next(step * many for many in (1, 2, 5, 10) if (self.top - self.bottom) / (step * many) < 7)
        first, last = math.ceil(self.bottom / step), math.floor(self.top / step)
        return [step * number for number in range(first, last + 1)]


def render_page(tuned: Tuned, facts: Mapping[str, str], commands: Mapping[str, str]) -> str:
    """Return the HTML page of a result, which loads no other file; all texts are escaped.

    Args:
        tuned: the result.
        facts: what was measured on, by name.
        commands: command lines, by what they do.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    axes = _Axes(tuned)
    result, *more = answer(tuned)
    page = template.render(
        tuned=tuned,
        facts=facts,
        commands=commands,
        result=result,
        more=more,
        explanations=explanations(tuned),
        width=_WIDTH,
        height=_HEIGHT,
        axes=axes,
        ratios=_labeled(axes, sorted({each.ratio for each in tuned.measured}, reverse=True)),
        shown=sorted({each.ratio for each in tuned.measured if each.loss}, reverse=True),
        lines=_lines(tuned, axes),
        limit_y=axes.y(tuned.limit),
        unit="points of accuracy" if tuned.by == "accuracy" else "nats",
        chosen=tuned.choice.measured if tuned.choice else None,
        examined=tuned.choice.measured if tuned.choice else tuned.closest,
        chosen_mark=_chosen_mark(tuned, axes),
        methods=_methods(tuned),
        cells={(each.method, each.ratio): each for each in tuned.measured},
        percent=percent,
        loss=lambda value: loss_text(tuned, value),
        style=style_sheet(),
    )
    return visible(page)


def _methods(tuned: Tuned) -> list[str]:
    """Return the methods, those with the lowest losses at the chosen ratio first."""
    names = list(dict.fromkeys(each.method for each in tuned.measured))
    if tuned.choice is None:
        return names
    ratio = tuned.choice.measured.ratio
    means = {each.method: each.loss.mean for each in tuned.measured if each.ratio == ratio and each.loss}
    return sorted(names, key=lambda name: means.get(name, math.inf))


def _labeled(axes: _Axes, ratios: Sequence[float]) -> list[tuple[float, float, bool]]:
    """Return each ratio with its place, and whether there is room for its label."""
    found: list[tuple[float, float, bool]] = []
    last = -math.inf
    for ratio in ratios:
        x = axes.x(ratio)
        has_room = x - last >= 42
        found.append((ratio, x, has_room))
        last = x if has_room else last
    return found


def _lines(tuned: Tuned, axes: _Axes) -> list[_Line]:
    methods = list(dict.fromkeys(each.method for each in tuned.measured if each.loss))
    marks = {
        method: tuple(
            _mark(tuned, axes, each, each.loss, _DODGE * (number - (len(methods) - 1) / 2))
            for each in tuned.measured
            if each.method == method and each.loss
        )
        for number, method in enumerate(methods)
    }
    names_y = _spread([max(marks[method][-1].y, 0.0) for method in methods])
    return [_Line(method, marks[method], y) for method, y in zip(methods, names_y, strict=True)]


def _mark(tuned: Tuned, axes: _Axes, measured: Measured, loss: Estimate, shift: float) -> _Mark:
    low, high = (loss.mean if bound is None else bound for bound in (loss.low, loss.high))
    text = (
        f"{measured.method} at {percent(measured.ratio)}: {loss_text(tuned, loss.mean)} "
        f"({loss_text(tuned, low)} to {loss_text(tuned, high)}) on {loss.videos} videos"
    )
    x = axes.x(measured.ratio) + shift
    return _Mark(
        x, axes.y(loss.mean), axes.y(high), axes.y(low), loss.mean > axes.top, loss.videos < tuned.videos, text
    )


def _chosen_mark(tuned: Tuned, axes: _Axes) -> _Mark | None:
    if tuned.choice is None:
        return None
    wanted = tuned.choice.measured
    methods = list(dict.fromkeys(each.method for each in tuned.measured if each.loss))
    shift = _DODGE * (methods.index(wanted.method) - (len(methods) - 1) / 2)
    assert wanted.loss is not None
    return _mark(tuned, axes, wanted, wanted.loss, shift)


def _spread(places: Sequence[float]) -> list[float]:
    """Move places apart, so that there is a gap between any two of them."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = list(places)
    for one, other in pairwise(order):
        found[other] = max(found[other], found[one] + _GAP)
    if order:
        found[order[-1]] = min(found[order[-1]], _HEIGHT)
    for other, one in pairwise(reversed(order)):
        found[one] = min(found[one], found[other] - _GAP)
    return found
