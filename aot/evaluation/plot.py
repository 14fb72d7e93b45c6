"""Accuracy against the share of tokens kept, as a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from aot.evaluation.results import ConditionResult, Results
from aot.files import write_whole

__all__ = ["plot_accuracy"]

# Okabe and Ito's colours, told apart by colour-blind people too; the first is for the method named first.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX*"


def plot_accuracy(results: Results, path: Path) -> None:
    """Write micro accuracy with 95 % intervals as .svg or .png, one line per method; all tokens as a dashed line.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[ConditionResult]] = defaultdict(list)
    for result in results.conditions:
        lines[result.name].append(result)
    full = lines.pop("none", None)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ranked = sorted(lines.items(), key=lambda line: -min(line[1], key=lambda r: r.ratio).micro.mean)
    for number, (name, points) in enumerate(ranked):
        _draw(axes, name, sorted(points, key=lambda result: result.ratio), number)
    if full:
        axes.axhline(100 * full[0].micro.mean, color="#555555", linestyle="--", linewidth=1, zorder=1)
        axes.annotate("all tokens", (0.01, 100 * full[0].micro.mean), xycoords=("axes fraction", "data"),
                      textcoords="offset points", xytext=(0, 4), color="#555555", fontsize=9)  # fmt: skip
    _label(axes, results, sorted({r.ratio for points in lines.values() for r in points}))

    def write(target: Path) -> None:
        dated = {"Date": None} if path.suffix == ".svg" else {}  # the same results are the same file
        figure.savefig(target, format=path.suffix[1:], dpi=160, metadata=dated)

    write_whole(path, write, overwrite=True)


def _draw(axes: Any, name: str, points: list[ConditionResult], number: int) -> None:
    ratios = [result.ratio for result in points]
    means = [100 * result.micro.mean for result in points]
    below = [100 * (result.micro.mean - result.micro.low) for result in points]
    above = [100 * (result.micro.high - result.micro.mean) for result in points]
    axes.errorbar(
        ratios, means, yerr=[below, above], label=name, color=_COLORS[number % len(_COLORS)],
        marker=_MARKERS[number % len(_MARKERS)], markersize=5, linewidth=1.6, capsize=2.5, elinewidth=1,
    )  # fmt: skip


def _label(axes: Any, results: Results, ratios: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel("questions answered right, %")
    axes.set_title(f"{results.questions} questions about {results.videos} videos, 95 % intervals", fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
