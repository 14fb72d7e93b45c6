"""Check the answers and the description of earlier runs in a folder of results."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.evaluation.fidelity import Fidelity
from aot.runtime.journal import read_rows
from aot.runtime.plain_values import flag, free, named, number, optional, record, text, whole

__all__ = ["DESCRIPTION", "Answered", "read_answers"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one question under one condition.

    The first question about a video is answered alone and measured, as in `aot ask`; the others are
    answered together. The measured times and memory are recorded for all questions about the video.

    Attributes:
        item: fingerprint of the question.
        answer: the right answer; None if it is not known.
        condition: key of the condition.
        predicted: the answer; empty if only predictions were compared (reference "forced").
        score: 0 to 1; None without a right answer.
        budget_tokens: token budget that the ratio sets; None without a budget.
        language_model_load: share of the visual tokens that a layer of the language model
            processes, mean over layers.
        answer_bytes: peak additional memory of answering on the model's device; None if unknown.
        run: number of the run in the folder, from 1. Times of two runs may not be comparable.
        fidelity: comparison with the full-token model; None if it was not asked for.
    """

    item: str
    video: str
    question: str
    answer: str | None
    condition: str
    predicted: str
    score: float | None
    kept_tokens: int
    visual_tokens: int
    budget_tokens: int | None
    language_model_load: float
    decode_ms: float
    encode_ms: float
    compress_ms: float
    first_token_ms: float
    answer_ms: float
    answer_bytes: int | None = None
    run: int = 1
    fidelity: Fidelity | None = None


_TEXTS = ("item", "video", "question", "condition", "predicted")
_TIMES = ("decode_ms", "encode_ms", "compress_ms", "first_token_ms", "answer_ms")
_FIDELITY = record({"divergence": number(0), "agreement": number(0, 1), "same_answer": flag}, exact=True)
_ROW = record(
    {
        **dict.fromkeys(_TEXTS, text),
        "answer": optional(text),
        "score": optional(number(0, 1)),
        "kept_tokens": whole(),
        "visual_tokens": whole(1),
        "budget_tokens": optional(whole()),
        "language_model_load": number(0),
        **dict.fromkeys(_TIMES, number(0)),
        "answer_bytes": optional(whole()),
        "run": whole(1),
        "fidelity": optional(lambda value, key: Fidelity(**_FIDELITY(value, key))),
    },
    missing={"answer_bytes": None, "run": 1, "fidelity": None},
    exact=True,
)
DESCRIPTION = record(
    {
        "model": record({"name": text, "fingerprint": text}, exact=True),
        "config": named(named(free)),
        "versions": named(text),
        "conditions": named(named(free)),
        "reference": optional(text),
    },
    missing={"reference": None},
    exact=True,
)


def read_answers(path: Path, conditions: Collection[str]) -> list[Answered]:
    """Return all answers in the file `path`; the conditions of answers must be in `conditions`.

    Raises:
        ConfigError, OutputError: See `aot.runtime.journal.read_rows`.
    """

    def read(plain: Any) -> Answered:
        answered = Answered(**_ROW(plain, ""))
        if answered.kept_tokens > answered.visual_tokens:
            raise ValueError(f"kept_tokens must be at most {answered.visual_tokens}, the visual_tokens")
        if answered.condition not in conditions:
            raise ValueError(f"condition must be one that run.json describes, not {answered.condition!r}")
        return answered

    return read_rows(path, read, lambda answered: (answered.condition, answered.item), first_name="item")
