"""Scores of every condition, with what they cost and how sure they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aot.evaluation.bootstrap import Interval, Resampling
from aot.evaluation.conditions import Condition
from aot.evaluation.dataset import Item, videos_of
from aot.evaluation.journal import Answered

__all__ = ["ConditionResult", "Results", "summarise"]

_REFERENCES = ("none", "random")


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition. micro: mean over questions; macro: mean over families; against: paired micro differences to `none`
    and to `random` at the same ratio, where those were run. Accuracies from 0 to 1, tokens per video, times per video
    (median), answering all its questions together.
    """

    name: str
    ratio: float
    micro: Interval
    macro: Interval
    families: Mapping[str, Interval]
    against: Mapping[str, Interval]
    kept_tokens: float
    visual_tokens: float
    compress_ms: float
    answer_ms: float


@dataclass(frozen=True, slots=True)
class Results:
    """All conditions over the same questions. families: how many questions each has."""

    videos: int
    questions: int
    families: Mapping[str, int]
    conditions: tuple[ConditionResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types all the way down."""
        return asdict(self)

    def to_csv(self) -> str:
        """One row per condition, accuracies with their intervals."""
        text = io.StringIO()
        rows = [_flat(result) for result in self.conditions]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def summarise(
    items: Sequence[Item], conditions: Sequence[Condition], answered: Mapping[tuple[str, str], Answered]
) -> Results:
    """Results of conditions that have answered every item."""
    names = sorted({item.family for item in items})
    videos = {video: number for number, video in enumerate(videos_of(items))}
    resampling = Resampling([videos[item.video] for item in items], [names.index(item.family) for item in items])
    rows = {each.key: [answered[str(video), each.key] for video in videos] for each in conditions}
    scores = {key: np.array([s for row in answers for s in row.scores]) for key, answers in rows.items()}
    return Results(
        videos=len(videos),
        questions=len(items),
        families={name: sum(item.family == name for item in items) for name in names},
        conditions=tuple(_summarise(each, rows[each.key], scores, names, resampling) for each in conditions),
    )


def _summarise(
    condition: Condition,
    rows: Sequence[Answered],
    scores: Mapping[str, NDArray[np.float64]],
    families: Sequence[str],
    resampling: Resampling,
) -> ConditionResult:
    own = scores[condition.key]
    references = {name: "none" if name == "none" else f"{name}@{condition.ratio:g}" for name in _REFERENCES}
    return ConditionResult(
        name=condition.name,
        ratio=condition.ratio,
        micro=resampling.micro(own),
        macro=resampling.macro(own),
        families={name: resampling.family(own, number) for number, name in enumerate(families)},
        against={
            name: resampling.micro_difference(own, scores[key])
            for name, key in references.items()
            if key in scores and key != condition.key
        },
        kept_tokens=sum(row.kept_tokens for row in rows) / len(rows),
        visual_tokens=sum(row.visual_tokens for row in rows) / len(rows),
        compress_ms=median(row.compress_ms for row in rows),
        answer_ms=median(row.answer_ms for row in rows),
    )


def _flat(result: ConditionResult) -> dict[str, str | float]:
    row: dict[str, str | float] = {"name": result.name, "ratio": result.ratio}
    measured = {"micro": result.micro, "macro": result.macro}
    measured |= {f"family {name}": interval for name, interval in result.families.items()}
    measured |= {f"against {name}": interval for name, interval in result.against.items()}
    for name, interval in measured.items():
        row |= {name: round(interval.mean, 4), f"{name} low": round(interval.low, 4)}
        row |= {f"{name} high": round(interval.high, 4)}
    row |= {"kept_tokens": round(result.kept_tokens, 1), "visual_tokens": round(result.visual_tokens, 1)}
    return row | {"compress_ms": round(result.compress_ms, 2), "answer_ms": round(result.answer_ms, 2)}
