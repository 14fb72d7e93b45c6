"""Questions with right answers, from a JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.errors import ConfigError

__all__ = ["Item", "fingerprint", "load_dataset", "videos_of"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Item:
    """One question. id: unique in the data set. options: the choices, if it is multiple choice; family: what kind of
    question it is, for the columns of a table.
    """

    id: str
    video: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    family: str = "all"

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        if not self.options:
            return self.question
        choices = [f"{letter}. {option}" for letter, option in zip(_LETTERS, self.options, strict=False)]
        return "\n".join([self.question, *choices, "Answer with the option's letter from the given choices directly."])

    @property
    def right_option(self) -> int | None:
        """Index of the right option; the answer may be its letter or its text."""
        if self.answer in self.options:
            return self.options.index(self.answer)
        place = _LETTERS.find(self.answer.upper()) if len(self.answer) == 1 else -1
        return place if 0 <= place < len(self.options) else None


def load_dataset(path: Path, limit_videos: int | None = None) -> tuple[Item, ...]:
    """Read one JSON object a line: video (relative to the file's folder), question, answer and, if wanted, options,
    family and id. Questions of one video are brought together; `limit_videos` takes the first so many videos.

    Raises:
        ConfigError: listing the first ten lines that are wrong or whose video is missing.
    """
    problems: list[str] = []
    items = list(_items(path, problems))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            problems.append(f"{path.name}: the id {item.id!r} is there twice")
        seen.add(item.id)
    problems += [f"{path.name}: there is no video {video}" for video in videos_of(items) if not video.is_file()]
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ConfigError(*problems[:_MOST_PROBLEMS], *more)
    if not items:
        raise ConfigError(f"{path} holds no questions; it needs one JSON object a line")
    chosen = videos_of(items)[:limit_videos]
    return tuple(item for video in chosen for item in items if item.video == video)


def videos_of(items: Sequence[Item]) -> list[Path]:
    """Every video once, in the order of the data set."""
    return list(dict.fromkeys(item.video for item in items))


def fingerprint(items: Sequence[Item]) -> str:
    """A hash of all questions and answers, whatever folder they are in."""
    told = [(item.id, item.video.name, item.prompt, item.answer, item.family) for item in items]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _items(path: Path, problems: list[str]) -> Iterator[Item]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            problems.append(f"{path.name}, line {number}: not a JSON object")
            continue
        wrong = _problem(row)
        if wrong:
            problems.append(f"{path.name}, line {number}: {wrong}")
            continue
        item = Item(
            id=str(row.get("id", number)),
            video=path.parent / Path(row["video"]).expanduser(),
            question=row["question"],
            answer=row["answer"],
            options=tuple(row.get("options") or ()),
            family=row.get("family", "all"),
        )
        if item.options and item.right_option is None:
            problems.append(f"{path.name}, line {number}: the answer {item.answer!r} is none of the options")
        yield item


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; it needs one JSON object a line") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _problem(row: Any) -> str | None:
    """What is wrong with a line."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for key in ("video", "question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"{key} must be text"
    if not isinstance(row.get("family", ""), str):
        return "family must be text"
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return "options must be a list of texts"
    return f"at most {len(_LETTERS)} options can be told apart" if len(options) > len(_LETTERS) else None
