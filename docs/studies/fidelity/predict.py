"""How well divergence from the full-token model, which needs no answers, predicts the loss of accuracy.

python docs/studies/fidelity/predict.py QUESTIONS.jsonl FOLDER... [--plot fidelity.svg]

Each folder is one of `aot eval --reference full`, of one model, with all conditions on the same questions and `none`
among them. A point is a condition (a method at a ratio): its mean divergence, and how much less accurate it is than
all tokens. Prints Spearman's rank correlation over conditions: of all, at each ratio (over methods alone), and of
each family of questions. Intervals: 95 %, bootstrap over clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aot.evaluation.bootstrap import Floats, Interval, Resampling
from aot.evaluation.dataset import load_dataset

FIGURES = ("divergence", "agreement", "same_answer")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """The figures of C conditions on Q questions about V clips, by one model.

    `loss` [C, Q] is the score with all tokens less that of the condition; `figures` are [C, Q], higher is worse.
    """

    name: str
    ratios: Floats
    loss: Floats
    right: Mask  # [Q], with all tokens
    figures: Mapping[str, Floats]
    families: NDArray[np.str_]
    clips: NDArray[np.int64]


def read(folder: Path, family_of: Mapping[str, str]) -> Measured:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["item"] in family_of:
            found.setdefault(row["condition"], {})[row["item"]] = row
    most = max(len(rows) for rows in found.values())
    found = {key: rows for key, rows in found.items() if len(rows) > most // 2}  # others were left out as impossible
    full = found["none"]
    common = [item for item in full if all(item in rows for rows in found.values())]
    keys = [key for key in found if key != "none"]
    score = {key: np.array([rows[item]["score"] for item in common], float) for key, rows in found.items()}

    def figure(name: str) -> Floats:
        values = np.array([[found[key][item]["fidelity"][name] for item in common] for key in keys], float)
        return values if name == "divergence" else 1 - values

    videos = sorted({full[item]["video"] for item in common})
    return Measured(
        name=folder.name,
        ratios=np.array([float(key.partition("@")[2] or 1) for key in keys]),
        loss=np.stack([score["none"] - score[key] for key in keys]),
        right=score["none"] == 1,
        figures={name: figure(name) for name in FIGURES},
        families=np.array([family_of[item] for item in common]),
        clips=np.array([videos.index(full[item]["video"]) for item in common]),
    )


def correlation(measured: Measured, figure: Floats, conditions: Mask, questions: Mask) -> Interval:
    """Spearman's correlation of the conditions' mean figure and mean loss, on some questions."""
    weights = Resampling(measured.clips.tolist(), [0] * len(measured.clips)).weights
    pairs = (
        means(each[conditions][:, questions], measured.clips[questions], weights) for each in (figure, measured.loss)
    )
    values = [spearman(*draw) for draw in zip(*pairs, strict=True)]
    known = [value for value in values[1:] if value == value]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    return Interval(values[0], float(low), float(high))


def means(values: Floats, clips: NDArray[np.int64], weights: Floats) -> Floats:
    """Means [draws, C] over questions of `values` [C, Q]: of the original data, then of each draw of clips."""
    videos = weights.shape[1]
    sums = np.stack([np.bincount(clips, row, videos) for row in values], 1)
    with np.errstate(invalid="ignore"):
        found: Floats = (weights @ sums) / (weights @ np.bincount(clips, minlength=videos))[:, None]
    return found.round(12)  # so that rounding does not break ties


def spearman(one: Floats, other: Floats) -> float:
    """Correlation of the ranks; equal values share their mean rank. No number if either side is constant."""
    first, second = ranks(one) - (len(one) - 1) / 2, ranks(other) - (len(other) - 1) / 2
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / length if length else float("nan")


def ranks(values: Floats) -> Floats:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: Floats = (np.cumsum(counts) - (counts + 1) / 2)[index]
    return found


def area_under_curve(measured: Measured, figure: Floats) -> float:
    """Of questions answered right with all tokens: the chance that one answered wrong has the higher figure.

    Short answers that differ from a right one are nearly always wrong, so that only divergence can surprise here.
    """
    scores, wrong = figure[:, measured.right].ravel(), measured.loss[:, measured.right].ravel() > 0
    positives = int(wrong.sum())
    pairs = positives * (len(scores) - positives)
    return float(ranks(scores)[wrong].sum() - positives * (positives - 1) / 2) / pairs if pairs else float("nan")


def subsets(measured: Measured) -> dict[str, tuple[Mask, Mask]]:
    """Name -> (conditions, questions)."""
    every, all_questions = np.ones(len(measured.ratios), bool), np.ones(len(measured.clips), bool)
    at_ratios = {
        f"{100 * ratio:g} %": (measured.ratios == ratio) for ratio in sorted(set(measured.ratios), reverse=True)
    }
    of_families = {name: measured.families == name for name in sorted(set(measured.families))}
    return {
        "all": (every, all_questions),
        **{name: (conditions, all_questions) for name, conditions in at_ratios.items() if conditions.sum() > 2},
        **{name: (every, questions) for name, questions in of_families.items()},
    }


def table(measured: Measured, rows: Mapping[str, Mapping[str, Interval]]) -> str:
    """Markdown: a row per subset, a column per figure."""
    questions, clips = len(measured.clips), len(set(measured.clips))
    lines = [f"{measured.name}: {len(measured.ratios)} conditions, {questions} questions about {clips} clips", ""]
    lines += ["| conditions and questions | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, intervals in rows.items():
        cells = [
            f"{each.mean:+.2f} [{each.low:+.2f}, {each.high:+.2f}]" if each.mean == each.mean else "-"
            for each in intervals.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    areas = [f"{area_under_curve(measured, measured.figures[name]):.3f}" for name in FIGURES]
    lines.append("| single answers that become wrong, area under the curve | " + " | ".join(areas) + " |")
    return "\n".join(lines) + "\n"


def plot(every: Sequence[Measured], found: Sequence[Mapping[str, Mapping[str, Interval]]], path: Path) -> None:
    """Left: a point per condition. Right: the rank correlations of divergence, with intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", figsize=(10, 4.6))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    ratios = sorted({ratio for measured in every for ratio in measured.ratios}, reverse=True)
    for measured, marker in zip(every, MARKERS, strict=False):
        for ratio, color in zip(ratios, COLORS, strict=False):
            there = measured.ratios == ratio
            left.scatter(
                measured.figures["divergence"][there].mean(1), 100 * measured.loss[there].mean(1), s=24, c=color,
                marker=marker, alpha=0.85, label=f"{measured.name}, {100 * ratio:g} %",
            )  # fmt: skip
    left.set_xlabel("divergence from the full-token model, nats")
    left.set_ylabel("loss of accuracy, points")
    left.legend(frameon=False, fontsize=8)
    names = list(found[0])
    for number, (measured, rows, marker) in enumerate(zip(every, found, MARKERS, strict=False)):
        heights = [-index - 0.25 * number for index, name in enumerate(names) if name in rows]
        values = [rows[name]["divergence"] for name in names if name in rows]
        reach = [[each.mean - (each.low or 0) for each in values], [(each.high or 0) - each.mean for each in values]]
        right.errorbar(
            [each.mean for each in values], heights, xerr=np.abs(reach), fmt=marker, color=COLORS[number], markersize=4,
            elinewidth=1, label=measured.name,
        )  # fmt: skip
    right.set_yticks([-index for index in range(len(names))], names)
    right.set_xlabel("rank correlation with the loss")
    right.set_xlim(right=1.03)
    right.locator_params(axis="x", nbins=5)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "aot"}):  # ids depend on the content instead of a random number
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    family_of = {item.fingerprint: item.family for item in load_dataset(asked.questions)}
    every = [read(folder, family_of) for folder in asked.folders]
    found = [
        {
            name: {figure: correlation(measured, measured.figures[figure], *parts) for figure in FIGURES}
            for name, parts in subsets(measured).items()
        }
        for measured in every
    ]
    for measured, rows in zip(every, found, strict=True):
        print(table(measured, rows))
    if asked.plot:
        plot(every, found, asked.plot)


if __name__ == "__main__":
    main()
