"""Read the answers and the description of earlier runs from a folder of results."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.errors import ConfigError, OutputError
from aot.runtime.json_files import lines_of, parse_json, read_json
from aot.runtime.plain_values import check_plain, free, named, number, optional, record, text, whole

__all__ = ["Answered", "read_answers", "read_description"]

_MOST_LINE_BYTES = 4 * 2**20
_MOST_PROBLEMS = 5
_BEGIN_AGAIN = "pass --restart to discard the answers and start over"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one question under one condition.

    The first question about a video is answered alone and measured, as in `aot ask`; the others are
    answered together. The measured times and memory are recorded for all questions about the video.

    Attributes:
        item: fingerprint of the question.
        condition: key of the condition.
        budget_tokens: token budget that the ratio sets; None without a budget.
        language_model_load: share of the visual tokens that a layer of the language model
            processes, mean over layers.
        answer_bytes: peak additional memory of answering on the model's device; None if unknown.
        run: number of the run in the folder, from 1. Times of two runs may not be comparable.
    """

    item: str
    video: str
    question: str
    answer: str
    condition: str
    predicted: str
    score: float
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


_TEXTS = ("item", "video", "question", "answer", "condition", "predicted")
_TIMES = ("decode_ms", "encode_ms", "compress_ms", "first_token_ms", "answer_ms")
_ROW = record(
    {
        **dict.fromkeys(_TEXTS, text),
        "score": number(0, 1),
        "kept_tokens": whole(),
        "visual_tokens": whole(1),
        "budget_tokens": optional(whole()),
        "language_model_load": number(0),
        **dict.fromkeys(_TIMES, number(0)),
        "answer_bytes": optional(whole()),
        "run": whole(1),
    },
    missing={"answer_bytes": None, "run": 1},
    exact=True,
)
_DESCRIPTION = record(
    {
        "model": record({"name": text, "fingerprint": text}, exact=True),
        "config": named(named(free)),
        "versions": named(text),
        "conditions": named(named(free)),
    },
    exact=True,
)


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of the run.json at `path`.

    Raises:
        ConfigError: If the file is missing, damaged, or from another version.
    """
    try:
        found = read_json(path)
        check_plain(found)
        description: dict[str, Any] = _DESCRIPTION(found, "")
    except FileNotFoundError:
        raise ConfigError(f"{path}, which describes the answers next to it, is missing; {_BEGIN_AGAIN}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {_BEGIN_AGAIN}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({_shortened(error)}); {_BEGIN_AGAIN}") from None
    return description


def read_answers(path: Path, conditions: Collection[str]) -> list[Answered]:
    """Return all answers in the file `path`; the conditions of answers must be in `conditions`.

    An incomplete last line, as a killed process leaves it, is removed from the file.

    Raises:
        ConfigError: If a line is damaged, or a question occurs twice under the same condition.
        OutputError: If the file cannot be repaired.
    """
    answers: dict[tuple[str, str], tuple[int, Answered]] = {}
    problems: list[str] = []
    line = b"\n"
    try:
        for count, line in enumerate(lines_of(path, _MOST_LINE_BYTES), 1):
            if not line.strip() or _is_torn(line):
                continue
            try:
                answered = _read_row(line, conditions)
            except ValueError as error:
                problems.append(f"line {count}: {_shortened(error)}")
                continue
            first, _ = answers.setdefault((answered.condition, answered.item), (count, answered))
            if first != count:
                problems.append(f"line {count}: it repeats the question of line {first}")
    except ValueError as error:
        problems.append(str(error))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {_BEGIN_AGAIN}") from error
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        listed = "; ".join(problems[:_MOST_PROBLEMS]) + more
        remedy = f"delete such lines to ask their questions again, or {_BEGIN_AGAIN}"
        raise ConfigError(f"{path} is damaged ({listed}); {remedy}")
    if not line.endswith(b"\n"):
        _end(path, line)
    return [answered for _, answered in answers.values()]


def _read_row(line: bytes, conditions: Collection[str]) -> Answered:
    answered = Answered(**_ROW(parse_json(line.strip()), ""))
    if answered.kept_tokens > answered.visual_tokens:
        raise ValueError(f"kept_tokens must be at most {answered.visual_tokens}, the visual_tokens")
    if answered.condition not in conditions:
        raise ValueError(f"condition must be one that run.json describes, not {answered.condition!r}")
    return answered


def _is_torn(line: bytes) -> bool:
    """Return whether `line` is an incomplete row, as a killed process leaves it."""
    begins = b'{"item": "'.startswith(line) or line.startswith(b'{"item": "')
    if line.endswith(b"\n") or not begins or any(byte < ord(" ") for byte in line):
        return False
    try:
        json.JSONDecoder().raw_decode(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False  # a complete row, perhaps with more after it


def _end(path: Path, last: bytes) -> None:
    """Append a newline to the file, or remove the last line `last` if this line is incomplete."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if _is_torn(last):
                file.truncate(end - len(last))
            else:
                file.write(b"\n")
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _shortened(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]
