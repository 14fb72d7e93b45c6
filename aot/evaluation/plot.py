"""Accuracy against the share of tokens kept, as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aot.evaluation.results import ConditionResult, Results
from aot.files import write_whole

__all__ = ["plot_accuracy", "spread"]

# Okabe and Ito's colours, told apart by colour-blind people too, without their yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*"
_APART = 0.05  # of the height, between two names
_DODGE = 1.015  # in the ratio, between the intervals of two methods


def plot_accuracy(results: Results, path: Path) -> None:
    """Write micro accuracy with 95 % intervals as .svg or .png: one line per method, or one row where there are more
    than can be told apart by colour; all tokens as a dashed line.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
    """
    lines: dict[str, list[ConditionResult]] = defaultdict(list)
    for result in sorted(results.conditions, key=lambda result: result.ratio):
        lines[result.name].append(result)
    full = lines.pop("none", None)
    figure = (_rows if len(lines) > len(_COLORS) else _lines)(results, lines, full[0] if full else None)

    def write(target: Path) -> None:
        dated = {"Date": None} if path.suffix == ".svg" else {}  # the same results are the same file
        figure.savefig(target, format=path.suffix[1:], dpi=160, metadata=dated)

    write_whole(path, write, overwrite=True)


def _lines(results: Results, lines: Mapping[str, Sequence[ConditionResult]], full: ConditionResult | None) -> Any:
    """Accuracy over the share of tokens kept, a line per method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for number, points in enumerate(lines.values()):
        _draw(axes, points, number, _DODGE ** (number - (len(lines) - 1) / 2))
    if full:
        axes.axhline(100 * full.micro.mean, color="#555555", linestyle="--", linewidth=1, zorder=1)
        axes.annotate("all tokens", (0.01, 100 * full.micro.mean), xycoords=("axes fraction", "data"),
                      textcoords="offset points", xytext=(0, 4), color="#555555", fontsize=9)  # fmt: skip
    _scale(axes, results, sorted({result.ratio for points in lines.values() for result in points}))
    _name(axes, lines)
    return figure


def _rows(results: Results, lines: Mapping[str, Sequence[ConditionResult]], full: ConditionResult | None) -> Any:
    """A row per method, the best on top, with a point for every ratio."""
    from matplotlib.figure import Figure

    ratios = sorted({result.ratio for points in lines.values() for result in points})
    names = _best_last(lines)
    figure = Figure(figsize=(7.2, 1.4 + 0.24 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for number, ratio in enumerate(ratios):
        there = [(row, result) for row, name in enumerate(names) for result in lines[name] if result.ratio == ratio]
        axes.errorbar(
            [100 * result.micro.mean for _, result in there], [row for row, _ in there],
            xerr=[[100 * (result.micro.mean - result.micro.low) for _, result in there],
                  [100 * (result.micro.high - result.micro.mean) for _, result in there]],
            color=_COLORS[number % len(_COLORS)], marker=_MARKERS[number % len(_MARKERS)], markersize=5, linewidth=0,
            elinewidth=1.2, label=f"{100 * ratio:g} %",
        )  # fmt: skip
    if full:
        axes.axvline(100 * full.micro.mean, color="#555555", linestyle="--", linewidth=1, zorder=1, label="all tokens")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("questions answered right, %")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(ratios) + 1, frameon=False, title=_about(results),
                  title_fontsize=10, fontsize=9)  # fmt: skip
    return figure


def _best_last(lines: Mapping[str, Sequence[ConditionResult]]) -> list[str]:
    """Names by how far a method is above the mean of all at the same ratio, on average over the ratios it has."""
    at: dict[float, list[float]] = defaultdict(list)
    for points in lines.values():
        for result in points:
            at[result.ratio].append(result.micro.mean)
    lead = {
        name: _mean([result.micro.mean - _mean(at[result.ratio]) for result in points])
        for name, points in lines.items()
    }
    return sorted(lead, key=lambda name: lead[name])


def _about(results: Results) -> str:
    return f"{results.questions} questions about {results.videos} videos, 95 % intervals"


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as possible (least squares) so that any two are at least `gap` apart, in their order.

    Pool adjacent violators, after taking off the gaps.
    """
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    blocks: list[list[float]] = []
    for place, k in enumerate(order):
        blocks.append([heights[k] - place * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [_mean(block) for block in blocks for _ in block]
    placed = {k: level + place * gap for place, (k, level) in enumerate(zip(order, levels, strict=True))}
    return [placed[k] for k in range(len(heights))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw(axes: Any, points: Sequence[ConditionResult], number: int, shift: float) -> None:
    means = [100 * result.micro.mean for result in points]
    below = [100 * (result.micro.mean - result.micro.low) for result in points]
    above = [100 * (result.micro.high - result.micro.mean) for result in points]
    axes.errorbar(
        [shift * result.ratio for result in points], means, yerr=[below, above], color=_COLORS[number % len(_COLORS)],
        marker=_MARKERS[number % len(_MARKERS)], markersize=5, linewidth=1.6, capsize=2, elinewidth=0.8,
    )  # fmt: skip


def _scale(axes: Any, results: Results, ratios: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
    axes.minorticks_off()
    if ratios:
        wide = (ratios[-1] / ratios[0]) ** 0.28 if len(ratios) > 1 else 1.3
        axes.set_xlim(ratios[0] / wide, ratios[-1] * wide**0.3)
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel("questions answered right, %")
    axes.set_title(_about(results), fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Any, lines: Mapping[str, Sequence[ConditionResult]]) -> None:
    """Every method's name at the left of its line, where few tokens are kept and the lines are farthest apart."""
    low, high = axes.get_ylim()
    ends = [100 * points[0].micro.mean for points in lines.values()]
    heights = spread(ends, _APART * (high - low))
    for number, (name, end, height) in enumerate(zip(lines, ends, heights, strict=True)):
        color = _COLORS[number % len(_COLORS)]
        axes.annotate(
            name, (lines[name][0].ratio, end), xytext=(-22, height), textcoords=("offset points", "data"), color=color,
            fontsize=9, ha="right", va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip
