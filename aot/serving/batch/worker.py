"""Run the jobs of a batch with one loaded model, and decode ahead."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from aot.errors import AOTError, OutputError, first_line, interruption
from aot.pipeline.replies import write_reply
from aot.pipeline.run import Pipeline
from aot.reports.retention import Compression
from aot.runtime.atomic_writes import make_folder, write_text
from aot.runtime.memory import explained_memory
from aot.runtime.plain_values import free
from aot.serving.ahead import Ahead, Opened
from aot.serving.batch.jobs import Job
from aot.serving.batch.results import Row
from aot.storage.tokens_file import save_tokens

__all__ = ["Outputs", "VideoWorker"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is written for each video, in addition to its rows.

    Attributes:
        folder: the folder of the batch.
        tokens: whether to write tokens/NAME.safetensors.
        reports: whether to write reports/NAME.json.
    """

    folder: Path
    tokens: bool = True
    reports: bool = False


class VideoWorker:
    """Compress videos and answer the questions about them.

    Args:
        pipeline: the loaded model and the settings.
        outputs: what to write for each video.
        answers_at_once: how many answers are generated together while further videos are encoded,
            for an engine; None: one after the other.
    """

    def __init__(self, pipeline: Pipeline, outputs: Outputs, answers_at_once: int | None = None) -> None:
        self._pipeline, self._outputs, self._together = pipeline, outputs, answers_at_once
        for name, wanted in (("tokens", outputs.tokens), ("reports", outputs.reports)):
            if wanted:
                make_folder(outputs.folder / name)

    def run(self, jobs: Iterable[Job]) -> Generator[list[Row], None, None]:
        """Yield the rows of each job; a thread decodes the next video while one is encoded.

        An error of a video becomes its rows. Closing the iterator closes all videos.

        Raises:
            OutputError: If a file cannot be written.
        """
        with closing(Ahead[Job](self._pipeline)) as ahead:
            if self._together is not None:
                yield from self._run_together(ahead.videos(jobs), self._together)
                return
            for job, opened in ahead.videos(jobs):
                kept = self._kept(job, opened)
                yield kept if isinstance(kept, list) else self._answered(*kept, job.questions)

    def _run_together(
        self, videos: Iterator[tuple[Job, Future[Opened]]], most: int
    ) -> Generator[list[Row], None, None]:
        """Yield the rows of each job, in order, when they are done; meanwhile encode other jobs."""
        waiting: deque[list[Future[list[Row]]]] = deque()
        pool = ThreadPoolExecutor(most, thread_name_prefix="aot-answer")
        try:
            for job, opened in videos:
                kept = self._kept(job, opened)
                if isinstance(kept, list):
                    waiting.append([pool.submit(list, kept)])
                else:
                    waiting.append([pool.submit(self._answered, *kept, [question]) for question in job.questions])
                while waiting and (len(waiting) > most or all(each.done() for each in waiting[0])):
                    yield _joined(waiting.popleft())
            while waiting:
                yield _joined(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _kept(self, job: Job, opened: Future[Opened]) -> tuple[Row, Compression] | list[Row]:
        """Compress a video and write its files; return the rows if there is nothing to answer."""
        row = Row(id=job.id, video=job.video, video_bytes=job.video_bytes)
        asked: tuple[str | None, ...] = job.questions or (None,)
        try:
            with closing(opened.result()) as begun, explained_memory():
                compression = self._pipeline.compress(begun.video, job.questions)
                row = self._written(row, job, compression)
        except OutputError:
            raise
        except Exception as error:
            _raise_interruption(error)
            return [replace(row, question=question, error=_sentence(error)) for question in asked]
        return (row, compression) if job.questions else [row]

    def _written(self, row: Row, job: Job, compression: Compression) -> Row:
        """Write the files of a video; return `row` with their names and what was kept."""
        report, outputs = compression.report, self._outputs
        tokens_file = f"tokens/{job.file_stem}.safetensors" if outputs.tokens else None
        report_file = f"reports/{job.file_stem}.json" if outputs.reports else None
        if tokens_file:
            save_tokens(outputs.folder / tokens_file, compression.tokens, report, overwrite=True)
        if report_file:
            text = json.dumps(free(report.to_dict(), ""), indent=2, ensure_ascii=False) + "\n"
            write_text(outputs.folder / report_file, text, overwrite=True)
        return replace(
            row,
            tokens_file=tokens_file,
            report_file=report_file,
            notices=report.notices,
            visual_tokens=report.visual_tokens,
            budget_tokens=report.budget_tokens,
            kept_tokens=report.kept_tokens,
            decode_ms=report.stage_ms["decode"],
            encode_ms=report.stage_ms["encode"],
            compress_ms=report.stage_ms["compress"],
        )

    def _answered(self, row: Row, compression: Compression, questions: Sequence[str]) -> list[Row]:
        """Return `row` with each question and its answer; after an error, go on with the next."""
        rows: list[Row] = []
        while left := questions[len(rows) :]:
            try:
                answers = self._pipeline.answers(compression.tokens, left)
                for question in left:
                    with explained_memory():
                        reply = write_reply(lambda answers=answers: next(answers))  # type: ignore[misc]
                    rows.append(
                        replace(
                            row,
                            question=question,
                            answer=reply.text,
                            notices=(*row.notices, *reply.notices),
                            prompt_tokens=reply.prompt_tokens,
                            output_tokens=reply.output_tokens,
                            first_token_ms=reply.first_token_ms,
                            answer_ms=reply.answer_ms,
                        )
                    )
            except Exception as error:
                _raise_interruption(error)
                rows.append(replace(row, question=questions[len(rows)], error=_sentence(error)))
        return rows


def _raise_interruption(error: Exception) -> None:
    """Raise the KeyboardInterrupt that led to `error`: such a row would say that a video failed."""
    if interrupted := interruption(error):
        raise interrupted


def _joined(parts: Sequence[Future[list[Row]]]) -> list[Row]:
    return [row for part in parts for row in part.result()]


def _sentence(error: Exception) -> str:
    """Return the error message for a row; only the errors of aot explain themselves."""
    if isinstance(error, AOTError):
        return str(error)
    return f"internal error ({type(error).__name__}: {first_line(error)}); aot ask VIDEO --debug shows where"
