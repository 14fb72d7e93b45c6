"""Write the HTML page of `--html`, which shows the kept tokens of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.runtime.atomic_writes import write_text
from aot_cli.output.console import notify
from aot_cli.output.reproduce import command_for
from aot_cli.output.tables import fidelity_texts

if TYPE_CHECKING:
    from aot.evaluation import Outcome
    from aot.reports.html import ShownRun
    from aot.reports.retention import Compression

__all__ = ["FORCE", "HTML", "comparison_page", "compression_page"]

HTML = Annotated[Path | None, typer.Option("--html", help="Write an HTML page that shows the kept tokens.")]
FORCE = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]


def compression_page(
    path: Path | None,
    result: Compression,
    words: Sequence[str],
    *,
    force: bool,
    answers: Sequence[tuple[str, str]] = (),
    answers_ms: float | None = None,
) -> None:
    """Write the HTML page of one run to `path` and print a note.

    Args:
        path: The file; if None, no page is written.
        result: The result of a run with `traced`.
        words: Command, video and other arguments that repeat the run, without settings.
        force: Replace an existing file.
        answers: Pairs of question and answer.
        answers_ms: Total time of the answers.
    """
    if path is None:
        return
    from aot.reports import html

    command = command_for(words, result.report.config)
    html.write(result, path, command=command, answers=answers, answers_ms=answers_ms, overwrite=force)
    notify([f"the page is in {path}"])


def comparison_page(
    path: Path, outcomes: Sequence[Outcome], command: str, notices: Sequence[str], *, force: bool
) -> None:
    """Write the HTML page that compares the outcomes of several methods, and print a note."""
    from aot.reports.html import render_page, shown_video, unshown

    assert outcomes[0].compression is not None
    shown = [*notices, *unshown(outcome.condition.config for outcome in outcomes)]
    video = shown_video(outcomes[0].compression, shown)
    write_text(path, render_page(video, [_compared(outcome, command) for outcome in outcomes]), overwrite=force)
    notify([f"the page is in {path}"])


def _compared(outcome: Outcome, command: str) -> ShownRun:
    from aot.reports.html import run_name, shown_run

    assert outcome.compression is not None
    (answered,), config = outcome.answered, outcome.condition.config
    name, answers = run_name(outcome.condition.name, config), [(answered.question, answered.predicted)]
    run = shown_run(outcome.compression, name, command, answers, {"answer": answered.answer_ms})
    budget = run.budget_tokens if config.compresses else None
    near = fidelity_texts(answered.fidelity) if answered.fidelity else {}
    return replace(run, budget_tokens=budget, peak_bytes={"answering": answered.answer_bytes}, fidelity=near)
