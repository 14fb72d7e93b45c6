"""Answers as they come, on disk, so that an evaluation that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aot.errors import ConfigError, OutputError
from aot.evaluation.dataset import Item
from aot.files import make_folder, write_text, write_whole

__all__ = ["Answered", "Journal"]

_MOST_DIFFERENCES = 5


@dataclass(frozen=True, slots=True)
class Answered:
    """One question under one condition.

    item: the fingerprint of the question; budget_tokens: what the ratio promised, None where nothing is promised;
    language_model_load: the mean over the language model's layers of the share of all visual tokens in each. The times
    are of the video under this condition, the same for all its questions: first_token_ms and answer_ms of its first
    question, asked alone as `aot ask` does, and answer_bytes the memory that took beyond what was held, on the model's
    device (None where it was not measured); the others are then answered together. run: the run into the folder, from
    1, that answered; times of two runs tell of two states of the machine.
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


class Journal:
    """answers.jsonl, one line a question and condition, and run.json, what they depend on beside their data.

    Questions are known by their fingerprints, so a data set may grow, shrink and change order between runs.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, restart: bool = False) -> None:
        """Read a folder, or begin one. `run`: plain values that must not change, under "model", "config", "versions"
        and "conditions"; only to the last more may be added. Nothing is written, and with `restart` nothing thrown
        away, before the first answer is added.

        Raises:
            ConfigError: the folder holds answers of a run that differs, or damaged ones.
            OutputError: the folder cannot be written to.
        """
        self.answers, self.description = folder / "answers.jsonl", folder / "run.json"
        make_folder(folder)
        plain = json.loads(json.dumps(run))
        goes_on = self.answers.is_file() and not restart
        before = (_read_description(self.description) if goes_on else None) or plain
        _check_same(before, plain, folder)
        self._text = json.dumps({**plain, "conditions": {**before["conditions"], **plain["conditions"]}}, indent=2)
        held = _read_answers(self.answers) if goes_on else []
        self._held = {(each.condition, each.item): each for each in held}
        self.run = 1 + max((each.run for each in held), default=0)
        self._begun = False

    def add(self, answers: Sequence[Answered]) -> None:
        """Write one line for each, at once."""
        if not self._begun:
            self._begin()
        answers = [replace(answered, run=self.run) for answered in answers]
        lines = "".join(json.dumps(asdict(answered), ensure_ascii=False) + "\n" for answered in answers)
        try:
            with self.answers.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise OutputError(f"{self.answers} could not be written: {error.strerror}") from error
        self._held |= {(answered.condition, answered.item): answered for answered in answers}

    def _begin(self) -> None:
        if not self._held:  # of a new run, or one begun again: a description never stands next to another's answers
            self.answers.unlink(missing_ok=True)
        write_text(self.description, self._text + "\n", overwrite=True)
        self._begun = True

    def answer(self, condition: str, item: Item) -> Answered | None:
        """The condition's answer, if it is there."""
        return self._held.get((condition, item.fingerprint))

    def missing(self, condition: str, items: Sequence[Item]) -> list[Item]:
        """Those of the items that the condition has not answered."""
        return [item for item in items if self.answer(condition, item) is None]


def _read_description(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {part: found[part] for part in ("model", "config", "versions", "conditions")}
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is damaged; pass --restart to begin again") from None


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    conditions = [key for key in now["conditions"] if key in before["conditions"]]
    differing = {
        *_differences(before["config"], now["config"]),
        *(path for key in conditions for path in _differences(before["conditions"][key], now["conditions"][key])),
        *(path for part in ("model", "versions") for path in _differences(before[part], now[part], part)),
    }
    if differing:
        told = [*sorted(differing)[:_MOST_DIFFERENCES], *["..."] * (len(differing) > _MOST_DIFFERENCES)]
        raise ConfigError(
            f"{folder} holds answers of another run, with another {', '.join(told)}; "
            "choose another folder with -o, or pass --restart to throw them away"
        )


def _differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths of the plain values that differ."""
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
    try:
        return [Answered(**json.loads(line)) for line in whole.decode("utf-8").split("\n")[:-1]]
    except (ValueError, TypeError):
        raise ConfigError(f"{path} is damaged; pass --restart to begin again") from None
