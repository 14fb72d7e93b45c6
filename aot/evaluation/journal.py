"""Store each answer on disk when it arrives, so that an interrupted evaluation can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aot.evaluation.dataset import Item
from aot.evaluation.journal_reader import DESCRIPTION, Answered, read_answers
from aot.runtime.atomic_writes import make_folder, write_text
from aot.runtime.journal import append_rows, check_same, differences, holds_rows, read_description

__all__ = ["Journal"]


class Journal:
    """The files of an evaluation: answers.jsonl and run.json.

    answers.jsonl has one line per question and condition. run.json has the settings and versions
    that the answers depend on. Questions are identified by their fingerprints, so a data set may
    grow, shrink and change its order between runs.

    Files are written, and with `restart` deleted, only when the first answer is added.

    Args:
        folder: folder of both files; it is created if missing.
        run: plain values under the keys "model", "config", "versions", "reference" and
            "conditions". They must not change between runs, but later runs may add conditions.
        restart: whether to discard earlier answers.

    Raises:
        ConfigError: If the folder holds damaged answers, or answers of a run with other values.
        OutputError: If the folder cannot be written to.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, restart: bool = False) -> None:
        self.answers, self.description = folder / "answers.jsonl", folder / "run.json"
        make_folder(folder)
        # 1. Compare `run` with the run in the folder; JSON converts tuples to lists.
        plain = json.loads(json.dumps(run))
        goes_on = holds_rows(self.answers) and not restart
        before = read_description(self.description, DESCRIPTION) if goes_on else plain
        check_same(_differing(before, plain), folder)
        self._text = json.dumps({**plain, "conditions": {**before["conditions"], **plain["conditions"]}}, indent=2)
        # 2. Read the earlier answers.
        held = read_answers(self.answers, before["conditions"]) if goes_on else []
        self._held = {(each.condition, each.item): each for each in held}
        self.run = 1 + max((each.run for each in held), default=0)
        self._begun = False

    def add(self, answers: Sequence[Answered]) -> None:
        """Append one line per answer to answers.jsonl, in a single write."""
        if not self._begun:
            self._begin()
        answers = [replace(answered, run=self.run) for answered in answers]
        append_rows(self.answers, map(asdict, answers))
        self._held |= {(answered.condition, answered.item): answered for answered in answers}

    def _begin(self) -> None:
        """Delete answers.jsonl if no earlier answer is reused, then write run.json."""
        # In this order run.json never describes the answers of another run.
        if not self._held:
            self.answers.unlink(missing_ok=True)
        write_text(self.description, self._text + "\n", overwrite=True)
        self._begun = True

    def answer(self, condition: str, item: Item) -> Answered | None:
        """Return the answer to `item` under the condition with key `condition`; None if missing."""
        return self._held.get((condition, item.fingerprint))

    def missing(self, condition: str, items: Sequence[Item]) -> list[Item]:
        """Return the questions without an answer under the condition with key `condition`."""
        return [item for item in items if self.answer(condition, item) is None]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the values in which two runs differ; conditions may be added."""
    conditions = [key for key in now["conditions"] if key in before["conditions"]]
    return [
        *differences(before["config"], now["config"]),
        *(path for key in conditions for path in differences(before["conditions"][key], now["conditions"][key])),
        *(
            path
            for part in ("model", "versions", "reference")
            for path in differences(before.get(part), now.get(part), part)
        ),
    ]
