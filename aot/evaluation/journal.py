"""Answers as they come, on disk, so that an evaluation that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aot.errors import ConfigError, OutputError
from aot.files import write_whole

__all__ = ["Answered", "Journal"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What one condition made of one video: every question's answer and score, in the data set's order.

    compress_ms: of the video. answer_ms: of all its questions together.
    """

    video: str
    condition: str
    kept_tokens: int
    visual_tokens: int
    compress_ms: float
    answer_ms: float
    ids: tuple[str, ...]
    predicted: tuple[str, ...]
    scores: tuple[float, ...]


class Journal:
    """answers.jsonl, one line for a video and a condition, and run.json, what they belong to."""

    def __init__(self, folder: Path, run: Mapping[str, Any], *, restart: bool = False) -> None:
        """Open or begin a folder. `run`: plain values that must not change, with the conditions' settings under
        "conditions", to which more may be added.

        Raises:
            ConfigError: the folder holds answers of a run that differs.
        """
        self.answers, self.description = folder / "answers.jsonl", folder / "run.json"
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            self.answers.unlink(missing_ok=True)
            self.description.unlink(missing_ok=True)
        before = _read_description(self.description)
        plain = json.loads(json.dumps(run))
        conditions = {**before.get("conditions", {}), **plain["conditions"]} if before else plain["conditions"]
        if before:
            _check_same(before, plain, folder)
        text = json.dumps({**plain, "conditions": conditions}, indent=2) + "\n"
        write_whole(self.description, lambda path: path.write_text(text, encoding="utf-8"), overwrite=True)
        self.done = {(each.video, each.condition): each for each in _read_answers(self.answers)}

    def add(self, answered: Answered) -> None:
        """Write one line, at once."""
        try:
            with self.answers.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(answered), ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"{self.answers} could not be written: {error.strerror}") from error
        self.done[answered.video, answered.condition] = answered

    def lacks(self, video: str, conditions: Sequence[str]) -> list[str]:
        """Those of the conditions that this video has no answers for."""
        return [condition for condition in conditions if (video, condition) not in self.done]


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise ConfigError(f"{path} is damaged; pass --restart to begin again") from None


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    known = {key: value for key, value in now["conditions"].items() if key in before["conditions"]}
    then = {**before, "conditions": {key: before["conditions"][key] for key in known}}
    differing = sorted(_differences(then, {**now, "conditions": known}))
    if differing:
        raise ConfigError(
            f"{folder} holds answers of another run ({', '.join(differing[:3])} differ); "
            "choose another folder with -o, or pass --restart to throw them away"
        )


def _differences(one: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = {*one, *other}
        return [d for key in keys for d in _differences(one.get(key), other.get(key), f"{path}.{key}".strip("."))]
    return [] if one == other else [path]


def _read_answers(path: Path) -> list[Answered]:
    """Every whole line; a line torn by a kill is cut away, so that the next one begins at its own."""
    if not path.is_file():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        write_whole(path, lambda target: target.write_bytes(whole), overwrite=True)
    return [_parse(line) for line in whole.decode("utf-8").split("\n")[:-1]]


def _parse(line: str) -> Answered:
    row = json.loads(line)
    lists: dict[str, Any] = {key: tuple(row.pop(key)) for key in ("ids", "predicted", "scores")}
    return Answered(**row, **lists)
