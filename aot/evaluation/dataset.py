"""Read questions, and their right answers if there are any, from a JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from aot.errors import ConfigError
from aot.runtime.json_files import listed_rows
from aot.runtime.plain_values import each, optional, record, utf8

__all__ = ["Item", "by_video", "load_dataset"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_PROBLEMS = 10


def _filled(value: Any, key: str) -> str:
    if not utf8(value, key).strip():
        raise ValueError(f"{key} must be text")
    return str(value)


def _id(value: Any, key: str) -> str | int:
    if type(value) is not int:
        return utf8(value, key)
    return value


_ROW = record(
    {
        **dict.fromkeys(("video", "question"), _filled),
        "answer": optional(_filled),
        "options": optional(each(utf8)),
        "family": utf8,
        "id": optional(_id),
    },
    missing={"answer": None, "options": None, "family": "all", "id": None},
)


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a video, with its right answer, or None if it is not known.

    `id` is unique in the data set. `options` are the choices of a multiple-choice question.
    `family` is the kind of question; tables have one column per family.
    """

    id: str
    video: Path
    question: str
    answer: str | None
    options: tuple[str, ...] = ()
    family: str = "all"
    video_bytes: int = 0

    @property
    def fingerprint(self) -> str:
        """Return a hash of the video's name and size, the prompt, the answer and the family."""
        facts = (self.video.name, self.video_bytes, self.prompt, self.answer, self.family)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def prompt(self) -> str:
        """Return the text for the model: the question and, if given, a list of the options."""
        if not self.options:
            return self.question
        choices = [f"{letter}. {option}" for letter, option in zip(_LETTERS, self.options, strict=False)]
        return "\n".join([self.question, *choices, "Answer with the option's letter from the given choices directly."])

    @property
    def right_option(self) -> int | None:
        """Return the index of the option whose text or letter is `answer`; None without a match."""
        if self.answer is None:
            return None
        if self.answer in self.options:
            return self.options.index(self.answer)
        return self.option_of(self.answer) if len(self.answer) == 1 else None

    def option_of(self, letter: str) -> int | None:
        """Return the index of the option with the letter `letter`; None without such an option."""
        index = _LETTERS.find(letter.upper())
        return index if 0 <= index < len(self.options) else None


def load_dataset(path: Path, limit_videos: int | None = None, *, needs_answers: bool = True) -> tuple[Item, ...]:
    """Return the questions in the JSONL file `path`; questions about the same video are adjacent.

    Each line is an object with the keys "video" (relative to the folder of `path`), "question",
    "answer" and optionally "options", "family" and "id". If `limit_videos` is given, only the
    questions about the first `limit_videos` videos are returned. Unless `needs_answers`, all
    questions may lack "answer".

    Raises:
        ConfigError: If `path` cannot be read, a line is invalid, a video is missing, or only some
            questions have answers. The message lists the first ten problems.
    """
    items: dict[str, Item] = {}
    sizes: dict[Path, int | None] = {}
    problems: list[str] = []
    for number, values in listed_rows(path, _ROW):
        item = values if isinstance(values, str) else _item(values, path.parent, number)
        wrong = item if isinstance(item, str) else _misfit(item, items, sizes)
        if wrong:
            problems.append(f"{path.name}, line {number}: {wrong}")
        elif isinstance(item, Item):
            items[item.id] = replace(item, video_bytes=sizes[item.video] or 0)
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ConfigError(*problems[:_MOST_PROBLEMS], *more)
    if not items:
        raise ConfigError(f"{path} holds no questions; it needs one JSON object per line")
    unknown = [item for item in items.values() if item.answer is None]
    if unknown and (needs_answers or len(unknown) < len(items)):
        raise ConfigError(
            f"{path}: {len(unknown)} of {len(items)} questions have no answer, for instance "
            f"{unknown[0].question!r}; give all answers, or none{' and --reference full' * needs_answers}"
        )
    return tuple(chain.from_iterable(list(by_video(items.values()).values())[:limit_videos]))


def by_video(items: Iterable[Item]) -> dict[Path, list[Item]]:
    """Return the questions of each video; videos and questions keep the order of `items`."""
    videos: dict[Path, list[Item]] = {}
    for item in items:
        videos.setdefault(item.video, []).append(item)
    return videos


def _item(values: Mapping[str, Any], folder: Path, number: int) -> Item | str:
    """Return the question in line `number`, or an error message if its options are wrong."""
    options = tuple(values["options"] or ())
    item = Item(
        id=str(number if values["id"] is None else values["id"]),
        video=folder / values["video"],
        question=values["question"],
        answer=values["answer"],
        options=options,
        family=values["family"],
    )
    return _wrong_options(item) or item


def _wrong_options(item: Item) -> str | None:
    if len(set(item.options)) < len(item.options):
        return "two options are the same"
    if len(item.options) > len(_LETTERS):
        return f"there are {len(item.options)} options; use at most {len(_LETTERS)}"
    if item.options and item.answer is not None and item.right_option is None:
        return f"the answer {item.answer!r} is not one of the options"
    return None


def _misfit(item: Item, items: Mapping[str, Item], sizes: dict[Path, int | None]) -> str | None:
    """Return an error message if `items` has the id of `item`, or if the video is missing.

    `sizes` caches the size of each video in bytes (None if the file is missing).
    """
    if item.id in items:
        return f"the id {item.id!r} is not unique"
    if item.video in sizes:
        return None  # a missing video is reported once
    sizes[item.video] = _file_bytes(item.video)
    return f"there is no video {item.video}" if sizes[item.video] is None else None


def _file_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # for instance a name that is too long
        return None
