"""List the videos of a batch, from files, folders and JSONL files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from aot.errors import ConfigError
from aot.runtime.json_files import listed_rows
from aot.runtime.paths import path_kind
from aot.runtime.plain_values import each, optional, record, utf8
from aot.text import as_utf8, check_question_text

__all__ = ["Job", "load_jobs"]

_MOST_PROBLEMS = 10
_LONGEST_NAME = 100
_LIST_SUFFIX = ".jsonl"
_VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".webm", ".wmv",
)  # fmt: skip


def _filled(value: Any, key: str) -> str:
    if not utf8(value, key).strip():
        raise ValueError(f"{key} must be text")
    return str(value)


def _id(value: Any, key: str) -> str:
    return str(value) if type(value) is int else _filled(value, key)


_LINE = record(
    {"video": _filled, "questions": each(_filled), "id": optional(_id)},
    missing={"questions": [], "id": None},
    exact=True,
)


@dataclass(frozen=True, slots=True)
class Job:
    """A video of a batch and the questions about it.

    Attributes:
        id: identifies the video in the results; unique in the batch.
        video: a file, or an http or https address.
        questions: the questions; if empty, the video is only compressed.
    """

    id: str
    video: str
    questions: tuple[str, ...] = ()

    @property
    def file_stem(self) -> str:
        """Return a name for files about the video; it depends on the id alone."""
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", PurePath(self.id).name)[:_LONGEST_NAME].lstrip(".")
        return stem if stem == self.id else f"{stem}-{hashlib.sha256(self.id.encode()).hexdigest()[:8]}"

    @property
    def video_bytes(self) -> int | None:
        """Return the size of the video in bytes, or None if it is missing or an address."""
        return Path(self.video).stat().st_size if path_kind(self.video) == "file" else None


def load_jobs(sources: Sequence[str], questions: Sequence[str] = ()) -> tuple[Job, ...]:
    """Return the videos that `sources` name, in their order.

    A source is a video (file or address), a folder, whose videos are found by their suffixes, also
    in its subfolders, or a JSONL file. A line of a JSONL file is an object with the keys "video"
    (relative to the folder of the file) and optionally "questions" and "id". By default, the id is
    the name of the video as it is given, in a folder relative to this folder.

    Args:
        sources: what the user named.
        questions: questions about every video; those of a line follow.

    Raises:
        ConfigError: If a list is damaged, an id is not unique, or there is no video. The message
            lists the first ten problems.
    """
    for question in questions:
        if not question.strip():
            raise ConfigError("a question is empty; give its text")
        check_question_text(question)
    jobs: dict[str, Job] = {}
    problems: list[str] = []
    for source in sources:
        for where, found in _jobs_of(source):
            if isinstance(found, str):
                problems.append(f"{where}{found}")
            elif found.id in jobs:
                problems.append(f'{where}the id "{found.id}" is not unique; a JSONL file can give each video an "id"')
            else:
                asked = tuple(dict.fromkeys((*questions, *found.questions)))
                jobs[found.id] = Job(found.id, found.video, asked)
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ConfigError(*problems[:_MOST_PROBLEMS], *more)
    return tuple(jobs.values())


def _jobs_of(source: str) -> Iterator[tuple[str, Job | str]]:
    """Yield (where it is, for messages; a job or an error message) for each video of `source`."""
    if path_kind(source) == "folder":
        yield from _jobs_in_folder(Path(source))
    elif source.endswith(_LIST_SUFFIX):
        yield from _jobs_in_list(Path(source))
    elif source == "-":
        yield "", "a batch cannot read a video from standard input; name files, a folder or a .jsonl file"
    else:
        yield "", Job(as_utf8(source), source)


def _jobs_in_folder(folder: Path) -> Iterator[tuple[str, Job]]:
    videos = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not videos:
        raise ConfigError(f"the folder {folder} has no videos (by suffix: {', '.join(_VIDEO_SUFFIXES)})")
    for path in videos:
        yield f"{folder}: ", Job(as_utf8(path.relative_to(folder).as_posix()), str(path))


def _jobs_in_list(path: Path) -> Iterator[tuple[str, Job | str]]:
    empty = True
    for number, values in listed_rows(path, _LINE):
        empty = False
        yield f"{path.name}, line {number}: ", values if isinstance(values, str) else _listed(values, path.parent)
    if empty:
        raise ConfigError(f"{path} has no videos; it needs one JSON object per line")


def _listed(values: Mapping[str, Any], folder: Path) -> Job:
    name: str = values["video"]
    video = name if "://" in name else str(folder / name)
    return Job(values["id"] or name, video, tuple(values["questions"]))
