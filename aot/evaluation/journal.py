"""Answers as they come, on disk, so that an evaluation that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aot.errors import ConfigError, OutputError
from aot.evaluation.dataset import Item
from aot.evaluation.journal_reader import Answered, read_answers, read_description
from aot.runtime.atomic_writes import make_folder, write_text

__all__ = ["Journal"]

_MOST_DIFFERENCES = 5


class Journal:
    """answers.jsonl, one line a question and condition, and run.json, what they depend on in addition to their data.

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
        goes_on = self.answers.is_file() and self.answers.stat().st_size > 0 and not restart
        before = read_description(self.description) if goes_on else plain
        _check_same(before, plain, folder)
        self._text = json.dumps({**plain, "conditions": {**before["conditions"], **plain["conditions"]}}, indent=2)
        held = read_answers(self.answers, before["conditions"]) if goes_on else []
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
