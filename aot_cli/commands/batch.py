"""`aot batch`: compress many videos and answer questions about them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aot.errors import ConfigError
from aot.reports.retention import versions
from aot.runtime.atomic_writes import check_writable, make_folder
from aot.runtime.folder_lock import locked
from aot.serving.batch.jobs import load_jobs
from aot.serving.batch.parquet import check_parquet, write_parquet
from aot.serving.batch.results import Results
from aot.serving.engines.options import EngineOptions
from aot_cli.options import COMPRESSION, GENERATION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import StageBars, notify, print_json
from aot_cli.output.screen import print_text
from aot_cli.session import current
from aot_cli.steps import (
    choose_model_for_videos,
    fetch_and_identify,
    load_pipeline,
    refuse_selection,
    unknown_words,
)

if TYPE_CHECKING:
    from aot.serving.batch.jobs import Job
    from aot.serving.batch.ray_workers import Cluster
    from aot.serving.batch.results import Row, Summary
    from aot.serving.batch.worker import Outputs
    from aot_cli.steps import Chosen

__all__ = ["batch"]

_MOST_SHOWN_FAILURES = 10


@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO|LIST.jsonl|FOLDER",
            help="Videos (files or URLs), folders, or JSONL files with a line per video: video [, questions, id].",
            show_default=False,
        ),
    ],
    given: Given,
    engine: EngineOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.jsonl and the tokens files.")],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Ask a question about every video. Repeatable.", show_default=False),
    ] = None,
    results: Annotated[
        Literal["jsonl", "parquet"],
        typer.Option("--results", help="parquet: also write results.parquet at the end (needs pyarrow)."),
    ] = "jsonl",
    tokens: Annotated[bool, typer.Option("--tokens/--no-tokens", help="Write a tokens file for every video.")] = True,
    reports: Annotated[bool, typer.Option("--reports", help="Write a report for every video.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Use N processes on Ray Data, each with a GPU if there are GPUs."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Use the Ray cluster at this address (auto: the running one).")
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option("--max-failures", min=0, metavar="N", help="Stop when more than N videos fail (default: never)."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do videos with an error again.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the rows in the folder and start again.")] = False,
    as_json: JSON = False,
) -> None:
    """Compress many videos, and answer questions about each of them.

    A video that cannot be read gives a row with its error, and exit code 1 at the end; the same
    command continues an interrupted run.

    aot batch videos/ -o out -q "what happens?"
    """
    jobs = load_jobs(sources, question or [])
    _check_wanted(jobs, given, outputs=tokens or reports)
    cluster = _cluster(given, workers, address)
    if results == "parquet":
        check_parquet()
    make_folder(output)
    for name in ("results.jsonl", "results.parquet", "batch.json"):
        check_writable(output / name, overwrite=True)
    with locked(output):
        chosen, identity = fetch_and_identify(
            choose_model_for_videos(given), as_embeddings=engine.name != "transformers"
        )
        from aot.serving.batch.run import describe_batch
        from aot.serving.batch.worker import Outputs

        outputs = Outputs(output, tokens, reports)
        description = describe_batch(identity, chosen.config, outputs, engine)
        held = Results(output, description, jobs, restart=restart, retry_failed=retry_failed)
        notify(held.notices)
        summary = _run(held, chosen, engine, outputs, cluster, max_failures)
        if results == "parquet":
            write_parquet(output / "results.parquet", held.rows())
    files = {
        "results_file": output / f"results.{results}",
        "tokens_folder": output / "tokens" if tokens else None,
        "reports_folder": output / "reports" if reports else None,
    }
    if as_json:
        failures = [{"id": row.id, "question": row.question, "error": row.error} for row in held.rows() if row.error]
        toy = {"toy_model": identity.is_toy, "model_name": identity.name}
        resolved = {"config": chosen.config.to_dict(), "versions": versions()}
        print_json("aot.batch/1", {**asdict(summary), "failures": failures, **files, **toy, **resolved})
    else:
        print_text(_sentence(summary))
        print_text(", ".join(str(path) for path in files.values() if path))
    if summary.failed or summary.not_done:
        raise typer.Exit(1)


def _run(
    held: Results,
    chosen: Chosen,
    engine: EngineOptions,
    outputs: Outputs,
    cluster: Cluster | None,
    max_failures: int | None,
) -> Summary:
    """Do what `held` lacks, with progress; after Ctrl-C, say how to go on."""
    from aot.serving.batch.run import run_batch

    try:
        rows = _rows(held.todo, chosen, engine, outputs, cluster)
        with StageBars() as bars:
            return run_batch(held, rows, max_failures=max_failures, on_rows=_Progress(bars, len(held.todo)))
    except KeyboardInterrupt:
        if held.file.is_file():
            notify([f"the rows so far are in {outputs.folder}; the same command continues from there"])
        raise


def _check_wanted(jobs: Sequence[Job], given: Given, *, outputs: bool) -> None:
    """Check that there is something to do for every video."""
    asked = [bool(job.questions) for job in jobs]
    if not outputs and not any(asked):
        raise ConfigError("nothing is asked or written; ask a question with -q, or leave out --no-tokens")
    if not all(asked):
        refuse_selection(given)


def _cluster(given: Given, workers: int | None, address: str | None) -> Cluster | None:
    """Return where to run the batch; None: in this process."""
    if workers is None and address is None:
        return None
    from aot.serving.batch.ray_workers import Cluster, check_ray

    check_ray(given.resolved)
    return Cluster(workers, address)


def _rows(
    jobs: Sequence[Job], chosen: Chosen, engine: EngineOptions, outputs: Outputs, cluster: Cluster | None
) -> Generator[list[Row], None, None]:
    """Load the model if it runs in this process; return an iterator over the rows of each job."""
    nothing: list[list[Row]] = []
    if not jobs:
        return (rows for rows in nothing)
    if cluster is not None:
        from aot.serving.batch.ray_workers import rows_on_ray

        return rows_on_ray(jobs, chosen.config, outputs, cluster, engine)
    from aot.serving.batch.worker import VideoWorker

    pipeline = load_pipeline(chosen, engine=engine)
    notify(unknown_words(pipeline.model, (question for job in jobs for question in job.questions)))
    return VideoWorker(pipeline, outputs, engine.answers_at_once).run(jobs)


class _Progress:
    """Show the number of videos, their rate and the time left; print the first failures."""

    def __init__(self, bars: StageBars, total: int) -> None:
        self._bars, self._total, self._failed = bars, total, 0
        current().stage = "starting the first videos"

    def __call__(self, rows: list[Row], done: int, elapsed_s: float) -> None:
        """Show that `done` videos are done, the last one with `rows`."""
        errors = [row.error for row in rows if row.error]
        if errors:
            self._failed += 1
            if self._failed <= _MOST_SHOWN_FAILURES:
                notify([f"{rows[0].id} failed: {errors[0]}"])
            if self._failed == _MOST_SHOWN_FAILURES:
                notify(["further failures are only in the results"])
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars("videos", done, self._total, f"{60 * done / elapsed_s:.3g} per minute{failed}")
        left = timedelta(seconds=round((self._total - done) * elapsed_s / done))
        current().stage += f", {60 * done / elapsed_s:.3g} per minute{failed}, {left} left"


def _sentence(summary: Summary) -> str:
    done = summary.videos - summary.not_done
    parts = [
        f"{done - summary.failed} of {summary.videos} videos done, {summary.failed} failed",
        f"{summary.not_done} left, because too many failed" if summary.not_done else "",
        f"{summary.earlier} by earlier runs" if summary.earlier else "",
        f"{summary.answers} answers" if summary.answers else "",
        f"kept {summary.kept_tokens} of {summary.visual_tokens} tokens",
        f"{summary.elapsed_s:.1f} s, {summary.videos_per_minute:.3g} videos per minute"
        if summary.videos_per_minute
        else "",
    ]
    return "; ".join(filter(None, parts))
