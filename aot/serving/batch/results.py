"""Store the rows of a batch as they arrive, so that an interrupted batch can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aot.errors import ConfigError
from aot.runtime.atomic_writes import write_text
from aot.runtime.journal import (
    append_rows,
    check_same,
    differences,
    holds_rows,
    lines_of_rows,
    read_description,
    read_rows,
)
from aot.runtime.plain_values import each, free, named, number, optional, record, text, whole
from aot.serving.batch.jobs import Job

__all__ = ["ROWS_FILE", "Results", "Row", "Summary"]

ROWS_FILE = "results.jsonl"
_DESCRIPTION_FILE = "batch.json"


@dataclass(frozen=True, slots=True)
class Row:
    """The answer to one question about a video, or the error; without a question, the compression.

    Attributes:
        id: id of the video in the batch.
        video: the file or address.
        question: the question; None if the video was only compressed.
        answer: the answer; None after an error, or without a question.
        error: the error message, or None.
        notices: sentences for the user.
        budget_tokens: token budget that the ratio sets; None without a budget.
        prompt_tokens: number of tokens in the prompt.
        output_tokens: number of generated tokens.
        video_bytes: size of the file; None for addresses and missing files.
        tokens_file: the tokens file in the folder of the batch, or None.
        report_file: the report in the folder of the batch, or None.
    """

    id: str
    video: str
    question: str | None = None
    answer: str | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()
    visual_tokens: int | None = None
    budget_tokens: int | None = None
    kept_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    decode_ms: float | None = None
    encode_ms: float | None = None
    compress_ms: float | None = None
    first_token_ms: float | None = None
    answer_ms: float | None = None
    video_bytes: int | None = None
    tokens_file: str | None = None
    report_file: str | None = None

    @classmethod
    def from_plain(cls, plain: Any) -> Row:
        """Return the row with the values that `asdict` gave.

        Raises:
            ValueError: If a value is missing, unknown or wrong.
        """
        found = _ROW(plain, "")
        return cls(**{**found, "notices": tuple(found["notices"])})


_ROW = record(
    {
        **dict.fromkeys(("id", "video"), text),
        **dict.fromkeys(("question", "answer", "error", "tokens_file", "report_file"), optional(text)),
        "notices": each(text),
        **{name: optional(whole()) for name in Row.__dataclass_fields__ if name.endswith(("_tokens", "_bytes"))},
        **{name: optional(number(0)) for name in Row.__dataclass_fields__ if name.endswith("_ms")},
    },
    exact=True,
)
_DESCRIPTION = record(
    {
        "model": record({"name": text, "fingerprint": text}, exact=True),
        "config": named(free),
        "versions": named(text),
        "outputs": named(free),
        "engine": text,
    },
    absent=["engine"],
    exact=True,
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Count what a batch has done.

    Attributes:
        videos: number of videos in the list.
        earlier: number of videos that earlier runs have done.
        failed: number of videos with an error.
        not_done: number of videos that are left, after too many failures.
        answers: number of answers without an error.
        visual_tokens: visual tokens of all videos before compression.
        kept_tokens: visual tokens after compression.
        elapsed_s: seconds that this run took, without loading the model.
        videos_per_minute: of this run; None if no video was left to do.
    """

    videos: int
    earlier: int
    failed: int
    not_done: int
    answers: int
    visual_tokens: int
    kept_tokens: int
    elapsed_s: float
    videos_per_minute: float | None


class Results:
    """The files of a batch: results.jsonl has the rows, batch.json what all rows depend on.

    Files are written, and rows dropped, only when the first row is added. A video whose rows are
    not complete is done again.

    Args:
        folder: the folder of the batch, which exists.
        description: plain values under the keys "model", "config", "versions" and "outputs", which
            must not change between runs.
        jobs: the videos; later runs may add some, but not leave any out.
        restart: whether to discard earlier rows.
        retry_failed: whether to do videos with an error again.

    Attributes:
        todo: the jobs that have no rows yet.
        notices: sentences for the user.

    Raises:
        ConfigError: If the folder holds damaged rows, rows of a run with other values, or rows
            about questions that `jobs` lack.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        jobs: Sequence[Job],
        *,
        restart: bool = False,
        retry_failed: bool = False,
    ) -> None:
        self.file, self._description_file = folder / ROWS_FILE, folder / _DESCRIPTION_FILE
        plain = json.loads(json.dumps(description))  # JSON converts tuples to lists
        self._text = json.dumps(plain, indent=2) + "\n"
        self._jobs = {job.id: job for job in jobs}
        self._rows: dict[str, list[Row]] = {}
        self._dropped, self._begun = not holds_rows(self.file) or restart, False
        self.notices: list[str] = []
        if not self._dropped:
            check_same(differences(read_description(self._description_file, _DESCRIPTION), plain), folder)
            rows = read_rows(self.file, Row.from_plain, lambda row: (row.id, row.question), first_name="id")
            self._check_listed(rows, folder)
            self._keep(rows, retry_failed=retry_failed)
        self.todo = [job for job in jobs if job.id not in self._rows]
        self._earlier = len(self._rows)

    def _check_listed(self, rows: Sequence[Row], folder: Path) -> None:
        asked = {(job.id, question) for job in self._jobs.values() for question in job.questions or (None,)}
        strange = [row for row in rows if (row.id, row.question) not in asked]
        if strange:
            what = strange[0].id if strange[0].question is None else f'"{strange[0].question}" about {strange[0].id}'
            raise ConfigError(
                f"{folder} holds {len(strange)} of {len(rows)} rows that are not in this list (first: {what}); "
                "choose another folder with -o, or pass --restart to discard all rows"
            )

    def _keep(self, rows: Sequence[Row], *, retry_failed: bool) -> None:
        """Keep the rows of videos that are complete, unchanged and, with `retry_failed`, right."""
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(row.id, []).append(row)
        changed = 0
        for name, of_video in found.items():
            job = self._jobs[name]
            same = all(row.video_bytes == job.video_bytes for row in of_video)
            changed += not same
            complete = len(of_video) == max(len(job.questions), 1)
            if same and complete and not (retry_failed and any(row.error for row in of_video)):
                self._rows[name] = of_video
        self._dropped = len(self._rows) < len(found)
        if changed:
            self.notices.append(f"done again, because the file has changed since the last run: {changed} videos")
        failed = [row for rows in self._rows.values() for row in rows[:1] if row.error]
        if failed:
            first = f"{failed[0].id}: {failed[0].error}"
            self.notices.append(f"failed in earlier runs: {len(failed)} (first: {first}); --retry-failed tries again")

    def add(self, rows: Sequence[Row]) -> None:
        """Append the rows of one video to results.jsonl, in a single write."""
        if not self._begun:
            self._begin()
        append_rows(self.file, map(asdict, rows))
        self._rows[rows[0].id] = list(rows)

    def _begin(self) -> None:
        """Delete the rows that are not kept, then write batch.json."""
        # In this order batch.json never describes the rows of another run.
        if self._dropped:
            kept = (asdict(row) for rows in self._rows.values() for row in rows)
            write_text(self.file, lines_of_rows(kept), overwrite=True)
        write_text(self._description_file, self._text, overwrite=True)
        self._begun = True

    def rows(self) -> Iterable[Row]:
        """Return all rows, in the order of the list."""
        return [row for name in self._jobs for row in self._rows.get(name, ())]

    def summary(self, elapsed_s: float) -> Summary:
        """Return the counts of all rows and the speed of this run, which took `elapsed_s`."""
        by_video = list(self._rows.values())
        new = len(by_video) - self._earlier
        return Summary(
            videos=len(self._jobs),
            earlier=self._earlier,
            failed=sum(any(row.error for row in rows) for rows in by_video),
            not_done=len(self._jobs) - len(by_video),
            answers=sum(row.answer is not None for rows in by_video for row in rows),
            visual_tokens=sum(rows[0].visual_tokens or 0 for rows in by_video),
            kept_tokens=sum(rows[0].kept_tokens or 0 for rows in by_video),
            elapsed_s=elapsed_s,
            videos_per_minute=60 * new / elapsed_s if new else None,
        )
