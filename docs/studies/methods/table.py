"""The tables of docs/methods.md from the folders of run.sh: accuracy with intervals, budgets and times, and
paired differences of one method to all others. Only videos that every condition has answered count.

python docs/studies/methods/table.py FOLDER... [--against standout] [--plot accuracy.svg]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from aot.evaluation.bootstrap import Interval, Resampling
from aot.evaluation.plot import plot_accuracy
from aot.evaluation.results import ConditionResult, Results

Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def read(folders: Sequence[Path]) -> Answers:
    """Answers by condition, all to the same questions in the same order."""
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = defaultdict(dict)
    for folder in folders:
        for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["condition"]][row["video"], row["item"]] = row
    most = max(len(rows) for rows in found.values())
    found = {key: rows for key, rows in found.items() if len(rows) > most // 2}  # others were left out as impossible
    common = sorted(set.intersection(*(set(rows) for rows in found.values())))
    return {key: [rows[index] for index in common] for key, rows in found.items()}


def summary(answers: Answers) -> Results:
    """As `aot eval` sums up, without families."""
    first = next(iter(answers.values()))
    resampling = resampled(first)
    videos = sorted({row["video"] for row in first})
    return Results(
        videos=len(videos),
        questions=len(first),
        families={},
        visual_tokens=fmean(row["visual_tokens"] for row in first),
        decode_ms=median(row["decode_ms"] for row in first),
        encode_ms=median(row["encode_ms"] for row in first),
        conditions=tuple(condition(key, rows, resampling) for key, rows in answers.items()),
    )


def resampled(rows: Sequence[Mapping[str, Any]]) -> Resampling:
    videos = sorted({row["video"] for row in rows})
    return Resampling([videos.index(row["video"]) for row in rows], [0] * len(rows))


def condition(key: str, rows: Sequence[Mapping[str, Any]], resampling: Resampling) -> ConditionResult:
    name, _, ratio = key.partition("@")
    micro = resampling.micro(np.array([row["score"] for row in rows]))
    once = list({row["video"]: row for row in rows}.values())
    means = {
        each: fmean(float(row[each]) for row in once if row[each] is not None)
        for each in ("kept_tokens", "budget_tokens", "language_model_load")
        if any(row[each] is not None for row in once)
    }
    times = {
        each: median(row[each] for row in once) for each in ("encode_ms", "compress_ms", "first_token_ms", "answer_ms")
    }
    runs = tuple(sorted({row["run"] for row in rows}))
    counts = {"budget_tokens": None, **means}
    return ConditionResult(name, float(ratio or 1), micro, micro, {}, {}, **counts, **times, timed_in_runs=runs)


def accuracy_table(results: Results) -> str:
    """Markdown: a row per method, a column per ratio; the best of a ratio in bold."""
    ratios = sorted({each.ratio for each in results.conditions if each.name != "none"}, reverse=True)
    at = {(each.name, each.ratio): each for each in results.conditions}
    names = list(dict.fromkeys(each.name for each in results.conditions if each.name != "none"))
    best = {ratio: max(each.micro.mean for each in results.conditions if each.ratio == ratio) for ratio in ratios}
    lines = [
        "| method | " + " | ".join(f"{100 * ratio:g} %" for ratio in ratios) + " |",
        "|---" * (len(ratios) + 1) + "|",
    ]
    for name in sorted(names, key=lambda name: -min_rank(name, at, ratios)):
        cells = [cell(at.get((name, ratio)), best[ratio]) for ratio in ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def min_rank(name: str, at: Mapping[tuple[str, float], ConditionResult], ratios: Sequence[float]) -> float:
    """How far above the mean of all at the same ratio, on average."""
    leads = []
    for ratio in ratios:
        if (name, ratio) in at:
            every = [each.micro.mean for (_, other), each in at.items() if other == ratio]
            leads.append(at[name, ratio].micro.mean - fmean(every))
    return fmean(leads)


def cell(result: ConditionResult | None, best: float) -> str:
    if result is None:
        return "-"
    mean = f"{100 * result.micro.mean:.1f}"
    mean = f"**{mean}**" if result.micro.mean == best else mean
    return f"{mean} ± {50 * (result.micro.high - result.micro.low):.1f}"


def cost_table(results: Results, ratio: float) -> str:
    """Markdown: tokens and times at one ratio."""
    lines = ["| method | kept | of budget | load | encode ms | compress ms | first token ms |", "|---" * 7 + "|"]
    for each in results.conditions:
        if each.ratio == ratio or each.name == "none":
            budget = "-" if each.budget_tokens is None else f"{each.budget_tokens:.0f}"
            lines.append(
                f"| {each.name} | {each.kept_tokens:.1f} | {budget} | {100 * each.language_model_load:.1f} % | "
                f"{each.encode_ms:.0f} | {each.compress_ms:.1f} | {each.first_token_ms:.0f} |"
            )
    return "\n".join(lines)


def differences(answers: Answers, name: str) -> str:
    """Markdown: by how many points `name` is above each other method, on the same questions."""
    ratios = [key.removeprefix(name) for key in answers if key.partition("@")[0] == name]
    others = list(
        dict.fromkeys(key.partition("@")[0] for key in answers if key.partition("@")[0] not in (name, "none"))
    )
    heads = [f"{100 * float(ratio[1:]):g} %" if ratio else "all tokens" for ratio in ratios]
    lines = [f"| {name} less | " + " | ".join(heads) + " |", "|---" * (len(ratios) + 1) + "|"]
    for other in others:
        rows = [answers.get(other + ratio) for ratio in ratios]
        cells = [
            "-" if row is None else signed(paired(answers[name + ratio], row))
            for row, ratio in zip(rows, ratios, strict=True)
        ]
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired(mine: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Interval:
    scores = np.array([a["score"] - b["score"] for a, b in zip(mine, others, strict=True)])
    return resampled(mine).micro(scores)


def signed(interval: Interval) -> str:
    text = f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--against", default="standout")
    parser.add_argument("--cost", type=float, default=0.1)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    answers = read(asked.folders)
    results = summary(answers)
    print(f"{results.questions} questions about {results.videos} videos; all tokens: ", end="")
    print(*(cell(each, 2) for each in results.conditions if each.name == "none"), "\n")
    print(accuracy_table(results), "\n")
    print(differences(answers, asked.against), "\n")
    print(cost_table(results, asked.cost))
    if asked.plot:
        plot_accuracy(results, asked.plot)


if __name__ == "__main__":
    main()
