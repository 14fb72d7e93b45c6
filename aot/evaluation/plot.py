"""Plot accuracy, or divergence from the full-token model, against the share of tokens kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aot.evaluation.bootstrap import Interval
from aot.evaluation.results import ConditionResult, Results
from aot.runtime.atomic_writes import write_whole
from aot.text import one_line

__all__ = ["accuracy_figure", "divergence_figure", "plot_accuracy", "plot_divergence", "spread"]

# The palette of Okabe and Ito for color-blind readers, without the faint yellow.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*"
_ALL_TOKENS = {"color": "#555555", "linestyle": "--", "linewidth": 1, "zorder": 1}
_GRID = {"color": "#e4e4e4", "linewidth": 0.8}
_WIDTH_INCHES = 7.2
_NAME_GAP = 0.055  # between two names, as a share of the height
_DODGE = 0.0065  # between the intervals of two methods, as a share of the width
_ROW_SHARE = 0.7  # share of a row's height that its points use


@dataclass(frozen=True, slots=True)
class _Point:
    """A measured value, in the unit of the axis, at a share of kept tokens."""

    ratio: float
    value: Interval


@dataclass(frozen=True, slots=True)
class _Axis:
    """The measured quantity: its name with the unit, and whether high values are good."""

    label: str
    high_is_good: bool


Lines = Mapping[str, Sequence[_Point]]  # maps a method to its points, sorted by ratio
_ACCURACY = _Axis("questions answered right, %", high_is_good=True)
_DIVERGENCE = _Axis("divergence from the full-token model, nats", high_is_good=False)


def plot_accuracy(results: Results, path: Path) -> None:
    """Write the figure of `accuracy_figure` to `path`, a .svg or .png file.

    Equal results give identical files if the version of matplotlib is the same.

    Raises:
        ImportError: If matplotlib is not installed (the extra `plot`).
    """
    _write(accuracy_figure(results), path)


def plot_divergence(results: Results, path: Path) -> None:
    """Write the figure of `divergence_figure` to `path`; see `plot_accuracy`."""
    _write(divergence_figure(results), path)


def _write(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    def write(target: Path) -> None:
        dated = {"Date": None} if path.suffix == ".svg" else {}
        with rc_context({"svg.hashsalt": "aot"}):  # ids depend on the content instead of a random number
            figure.savefig(target, format=path.suffix[1:], dpi=160, metadata=dated)

    write_whole(path, write, overwrite=True)


def accuracy_figure(results: Results) -> Any:
    """Return a figure of the micro accuracy (mean over all questions) with 95 % intervals.

    Conditions without an accuracy are left out.

    The figure has one line per method. With a single ratio, or with more methods than colors, it
    has one row per method instead. A dashed line marks the accuracy with all tokens.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return _figure(results, _ACCURACY, lambda result: result.micro and _scaled(result.micro, 100))


def divergence_figure(results: Results) -> Any:
    """Return a figure as `accuracy_figure` does, of the divergence from the full-token model."""
    return _figure(results, _DIVERGENCE, lambda result: result.fidelity.divergence if result.fidelity else None)


def _scaled(interval: Interval, by: float) -> Interval:
    bounds = (None if bound is None else by * bound for bound in (interval.low, interval.high))
    return Interval(by * interval.mean, *bounds)


def _figure(results: Results, axis: _Axis, measured: Callable[[ConditionResult], Interval | None]) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines: dict[str, list[_Point]] = defaultdict(list)
    for result in sorted(results.conditions, key=lambda result: result.ratio):
        if value := measured(result):
            lines[one_line(result.name)].append(_Point(result.ratio, value))
    full = lines.pop("none", None)
    ratios = sorted({result.ratio for points in lines.values() for result in points})
    figure = Figure(layout="constrained")
    draw = _rows if len(ratios) < 2 or len(lines) > len(_COLORS) else _lines
    with rc_context({"text.parse_math": False}):  # a "$" in a name must not start a formula
        draw(figure, lines, ratios, full[0].value if full else None, _about(results), axis)
    return figure


def _about(results: Results) -> str:
    videos = f"{results.videos} video{'s' * (results.videos > 1)}"
    intervals = ", 95 % intervals" * (results.videos > 1)
    return f"{results.questions} questions about {videos}{intervals}"


# --- One line per method


def _lines(figure: Any, lines: Lines, ratios: Sequence[float], full: Interval | None, about: str, axis: _Axis) -> None:
    """Draw the values over the share of kept tokens: one line per method, named at its right end.

    The share decreases to the right, because the lines are farthest apart at low shares.
    """
    figure.set_size_inches(_WIDTH_INCHES, 4.4)
    axes = figure.add_subplot()
    span = ratios[-1] / ratios[0]
    ends: list[tuple[str, float, float, str]] = []  # name, share and value of the last point, color
    for number, (name, points) in enumerate(lines.items()):
        shift, color = span ** (_DODGE * (number - (len(lines) - 1) / 2)), _COLORS[number]
        _points(
            axes, [shift * result.ratio for result in points], [result.value for result in points], upright=True,
            color=color, marker=_MARKERS[number], linewidth=1.6, capsize=2, elinewidth=0.8,
        )  # fmt: skip
        ends.append((name, shift * points[0].ratio, points[0].value.mean, color))
    _scale(axes, ratios, about, axis)
    if full:
        axes.axhline(full.mean, **_ALL_TOKENS)
        ends.append(("all tokens", axes.get_xlim()[1], full.mean, str(_ALL_TOKENS["color"])))
    _name(axes, ends)


def _scale(axes: Any, ratios: Sequence[float], about: str, axis: _Axis) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
    axes.minorticks_off()
    span = ratios[-1] / ratios[0]
    axes.set_xlim(ratios[-1] * span**0.06, ratios[0] / span**0.06)
    if any(larger / smaller < span**0.09 for smaller, larger in pairwise(ratios)):  # no room side by side
        axes.tick_params(axis="x", rotation=45)
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel(axis.label)
    axes.set_title(about, fontsize=10)
    axes.grid(axis="y", **_GRID)
    _plain(axes)


def _name(axes: Any, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each name to the right of the axes, and connect it to the last point of its line."""
    low, high = axes.get_ylim()
    heights = spread([value for _, _, value, _ in ends], _NAME_GAP * (high - low))
    for (name, share, value, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            name, (share, value), xytext=(1.04, height), textcoords=axes.get_yaxis_transform(), color=color,
            fontsize=9, ha="left", va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return `heights` moved to be at least `gap` apart, with the least sum of squared moves.

    The order of the heights is preserved. The algorithm subtracts the gaps from the sorted heights
    and then averages neighbors that are in the wrong order (pool adjacent violators).
    """
    # 1. Subtract the gaps; the sorted heights must then not decrease.
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    blocks: list[list[float]] = []
    for rank, k in enumerate(order):
        blocks.append([heights[k] - rank * gap])
        # Pool a block with the previous block if its mean is lower.
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    # 2. Every height becomes the mean of its block; add the gaps again.
    levels = [_mean(block) for block in blocks for _ in block]
    placed = {k: level + rank * gap for rank, (k, level) in enumerate(zip(order, levels, strict=True))}
    return [placed[k] for k in range(len(heights))]


# --- One row per method


def _rows(figure: Any, lines: Lines, ratios: Sequence[float], full: Interval | None, about: str, axis: _Axis) -> None:
    """Draw a row per method (best on top); in each row, draw a point per ratio (largest on top)."""
    from matplotlib import colormaps

    names = _best_last(lines, axis)
    row_inches = 0.2 + 0.045 * len(ratios)
    figure.set_size_inches(_WIDTH_INCHES, 1.5 + row_inches * len(names))
    axes = figure.add_subplot()
    for number, ratio in reversed(list(enumerate(ratios))):
        there = [(row, result) for row, name in enumerate(names) for result in lines[name] if result.ratio == ratio]
        offset = _ROW_SHARE * ((number + 0.5) / len(ratios) - 0.5)
        several = len(ratios) > 1
        color = colormaps["viridis"](0.85 * (1 - number / (len(ratios) - 1))) if several else _COLORS[0]
        _points(
            axes, [row + offset for row, _ in there], [result.value for _, result in there], upright=False,
            color=color, marker=_MARKERS[number % len(_MARKERS)], linewidth=0, elinewidth=1.2,
            label=f"{100 * ratio:g} %" if several else f"{100 * ratio:g} % of tokens",
        )  # fmt: skip
    if full:
        axes.axvline(full.mean, **_ALL_TOKENS, label="all tokens")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(axis.label)
    axes.grid(axis="x", **_GRID)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, **_GRID, zorder=0)
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    figure.legend(loc="outside upper center", ncols=len(ratios) + 1, frameon=False, title=about, title_fontsize=10,
                  fontsize=9, columnspacing=1.2, handletextpad=0.4, handlelength=1.5)  # fmt: skip


def _best_last(lines: Lines, axis: _Axis) -> list[str]:
    """Return the method names in order of increasing lead, or decreasing if low values are good.

    The lead is the value minus the mean of all methods at the same ratio, averaged over ratios.
    """
    at: dict[float, list[float]] = defaultdict(list)
    for points in lines.values():
        for result in points:
            at[result.ratio].append(result.value.mean)
    lead = {
        name: _mean([result.value.mean - _mean(at[result.ratio]) for result in points])
        for name, points in lines.items()
    }
    return sorted(lead, key=lambda name: lead[name], reverse=not axis.high_is_good)


# --- Shared by both


def _points(axes: Any, coords: Sequence[float], measured: Sequence[Interval], *, upright: bool, **style: Any) -> None:
    """Draw `measured` with known intervals: along y if `upright`, otherwise along x."""
    means = [each.mean for each in measured]
    reach = [[each.mean - (each.mean if each.low is None else each.low) for each in measured],
             [(each.mean if each.high is None else each.high) - each.mean for each in measured]]  # fmt: skip
    known = reach if any(each.low is not None for each in measured) else None
    x, y = (coords, means) if upright else (means, coords)
    axes.errorbar(x, y, **{"yerr" if upright else "xerr": known}, markersize=5, **style)


def _plain(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
