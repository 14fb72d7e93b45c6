"""Summarize the answers of an evaluation: accuracy with intervals, tokens and times."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aot.evaluation.bootstrap import Interval, Resampling
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, by_video
from aot.evaluation.journal_reader import Answered

__all__ = ["ConditionResult", "Difference", "MeanFidelity", "Results", "summarize"]

_REFERENCES = ("none", "random")
_FIDELITY = ("divergence", "agreement", "same_answer")


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference between the accuracies of two conditions, as micro and macro averages."""

    micro: Interval
    macro: Interval


@dataclass(frozen=True, slots=True)
class MeanFidelity:
    """Fidelity to the full-token model, mean over all questions; see `aot.evaluation.fidelity`."""

    divergence: Interval
    agreement: Interval
    same_answer: Interval


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """Hold the results of one condition. Accuracies are in [0, 1]; they need right answers.

    Attributes:
        name: name of the condition.
        ratio: share of the tokens to keep.
        micro: mean accuracy over all questions; None without right answers.
        macro: mean of the accuracies of the families; None without right answers.
        families: accuracy of each family; empty without right answers.
        against: differences to `none` and to `random` at the same ratio, if these were run.
        kept_tokens: number of kept tokens, mean over videos.
        budget_tokens: token budget that the ratio sets, mean over videos; None without a budget.
        language_model_load: share of the visual tokens that a layer of the language model
            processes, mean over layers and videos.
        encode_ms: time of the vision encoder, median over videos. Conditions that do not merge
            tokens inside the encoder are encoded together.
        compress_ms: time of compression, median over videos.
        first_token_ms: time to the first token of a single question, median over videos.
        answer_ms: time to the whole answer of a single question, median over videos.
        timed_in_runs: numbers (from 1) of the runs that measured the times.
        fidelity: comparison with the full-token model; None if it was not asked for.
    """

    name: str
    ratio: float
    micro: Interval | None
    macro: Interval | None
    families: Mapping[str, Interval]
    against: Mapping[str, Difference]
    kept_tokens: float
    budget_tokens: float | None
    language_model_load: float
    encode_ms: float
    compress_ms: float
    first_token_ms: float
    answer_ms: float
    timed_in_runs: tuple[int, ...]
    fidelity: MeanFidelity | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Hold the results of all conditions over the same questions.

    Attributes:
        videos: number of videos.
        questions: number of questions.
        families: number of questions in each family.
        visual_tokens: number of tokens before compression, mean over videos.
        decode_ms: time to decode a video under the first condition, median over videos.
        encode_ms: time of the vision encoder under the first condition, median over videos.
        conditions: one result per condition.
    """

    videos: int
    questions: int
    families: Mapping[str, int]
    visual_tokens: float
    decode_ms: float
    encode_ms: float
    conditions: tuple[ConditionResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the results as nested dictionaries and tuples of plain values."""
        return asdict(self)

    def to_csv(self) -> str:
        """Return a CSV table: a row per condition, three columns per accuracy (mean and bounds)."""
        text = io.StringIO()
        rows = [_flat(result) for result in self.conditions]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def summarize(
    items: Sequence[Item], conditions: Sequence[Condition], answered: Mapping[str, Sequence[Answered]]
) -> Results:
    """Return the results; `answered` has the answers of each condition key, in order of `items`."""
    names = sorted({item.family for item in items})
    videos = {video: number for number, video in enumerate(by_video(items))}
    resampling = Resampling([videos[item.video] for item in items], [names.index(item.family) for item in items])
    known = all(item.answer is not None for item in items)
    scores = {key: np.array([row.score for row in rows]) for key, rows in answered.items() if known}
    fidelities = {key: _mean_fidelity(rows, resampling) for key, rows in answered.items()}
    # All answers about a video have the same costs, so the first answer of each video is used.
    firsts = [next(index for index, item in enumerate(items) if item.video == video) for video in videos]
    rows = {key: [own[index] for index in firsts] for key, own in answered.items()}
    shared = rows[conditions[0].key]
    return Results(
        videos=len(videos),
        questions=len(items),
        families={name: sum(item.family == name for item in items) for name in names},
        visual_tokens=fmean(row.visual_tokens for row in shared),
        decode_ms=median(row.decode_ms for row in shared),
        encode_ms=median(row.encode_ms for row in shared),
        conditions=tuple(
            _summarize(each, rows[each.key], scores, fidelities[each.key], names, resampling) for each in conditions
        ),
    )


def _mean_fidelity(rows: Sequence[Answered], resampling: Resampling) -> MeanFidelity | None:
    measured = [row.fidelity for row in rows if row.fidelity is not None]
    if len(measured) < len(rows):
        return None
    return MeanFidelity(
        **{
            name: resampling.micro(np.array([getattr(each, name) for each in measured], dtype=float))
            for name in _FIDELITY
        }
    )


def _summarize(
    condition: Condition,
    rows: Sequence[Answered],
    scores: Mapping[str, NDArray[np.float64]],
    fidelity: MeanFidelity | None,
    families: Sequence[str],
    resampling: Resampling,
) -> ConditionResult:
    own = scores.get(condition.key)
    budgets = [row.budget_tokens for row in rows if row.budget_tokens is not None]
    references = {name: "none" if name == "none" else f"{name}@{condition.ratio:g}" for name in _REFERENCES}
    return ConditionResult(
        name=condition.name,
        ratio=condition.ratio,
        micro=None if own is None else resampling.micro(own),
        macro=None if own is None else resampling.macro(own),
        families={} if own is None else {name: resampling.family(own, number) for number, name in enumerate(families)},
        against={
            name: Difference(resampling.micro(own - scores[key]), resampling.macro(own - scores[key]))
            for name, key in references.items()
            if own is not None and key in scores and key != condition.key
        },
        kept_tokens=fmean(row.kept_tokens for row in rows),
        budget_tokens=fmean(budgets) if budgets else None,
        language_model_load=fmean(row.language_model_load for row in rows),
        encode_ms=median(row.encode_ms for row in rows),
        compress_ms=median(row.compress_ms for row in rows),
        first_token_ms=median(row.first_token_ms for row in rows),
        answer_ms=median(row.answer_ms for row in rows),
        timed_in_runs=tuple(sorted({row.run for row in rows})),
        fidelity=fidelity,
    )


def _flat(result: ConditionResult) -> dict[str, str | float | None]:
    """Return `result` as one row of the CSV table, with rounded accuracies and times."""
    row: dict[str, str | float | None] = {"name": result.name, "ratio": result.ratio}
    measured: dict[str, Interval] = {}
    if result.micro and result.macro:
        measured |= {"micro": result.micro, "macro": result.macro}
    measured |= {_column("family", name): interval for name, interval in result.families.items()}
    for name, difference in result.against.items():
        measured |= {_column("micro_against", name): difference.micro, _column("macro_against", name): difference.macro}
    if result.fidelity:
        measured |= {name: getattr(result.fidelity, name) for name in _FIDELITY}
    for name, interval in measured.items():
        bounds = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        digits = 6 if name == "divergence" else 4  # close to 0 at high ratios
        row |= {key: None if value is None else round(value, digits) for key, value in bounds.items()}
    row |= {"kept_tokens": round(result.kept_tokens, 1), "budget_tokens": result.budget_tokens}
    row |= {"language_model_load": round(result.language_model_load, 4)}
    times = ("encode_ms", "compress_ms", "first_token_ms", "answer_ms")
    row |= {name: round(getattr(result, name), 2) for name in times}
    return row | {"timed_in_runs": " ".join(map(str, result.timed_in_runs))}


def _column(what: str, name: str) -> str:
    """Return the column name WHAT_NAME without spaces, which many programs do not accept."""
    return "_".join([what, *name.split()])
