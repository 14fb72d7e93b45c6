"""`--html`: the page that shows what a run kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import ConfigError
from aot.runtime.atomic_writes import write_text
from aot.storage.tokens_file import is_tokens_file
from aot_cli.output.console import notify
from aot_cli.output.reproduce import command_for

if TYPE_CHECKING:
    from aot.evaluation import Outcome
    from aot.reports.html import ShownRun
    from aot.reports.retention import Compression

__all__ = ["FORCE", "HTML", "check_pictures", "comparison_page", "compression_page", "page_name", "tell_of_page"]

HTML = Annotated[
    Path | None, typer.Option("--html", help="Also write a page that shows what was kept, to open in a browser.")
]
FORCE = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]


def check_pictures(path: Path | None, source: str) -> None:
    """
    Raises:
        ConfigError: there is to be a page of a source without pictures.
    """
    if path is not None and is_tokens_file(source):
        raise ConfigError("--html shows a video's frames, which a tokens file does not hold; name the video")


def compression_page(
    path: Path | None,
    result: Compression,
    words: Sequence[str],
    *,
    force: bool,
    answers: Sequence[tuple[str, str]] = (),
    answers_ms: float | None = None,
) -> None:
    """The page of one run, if one was asked for. words: of the command that does it again, with the video's path.
    answers: questions and answers, which took answers_ms.
    """
    if path is None:
        return
    from aot.reports import html

    command = command_for(words, result.report.config)
    html.write(result, path, command=command, answers=answers, answers_ms=answers_ms, overwrite=force)


def comparison_page(
    path: Path, outcomes: Sequence[Outcome], command: str, notices: Sequence[str], *, force: bool
) -> None:
    """Write the page of the methods that answered a question."""
    from aot.reports.html import render_page, shown_video, unshown

    assert outcomes[0].compression is not None
    told = [*notices, *unshown(outcome.condition.config for outcome in outcomes)]
    video = shown_video(outcomes[0].compression, told)
    write_text(path, render_page(video, [_compared(outcome, command) for outcome in outcomes]), overwrite=force)


def _compared(outcome: Outcome, command: str) -> ShownRun:
    from aot.reports.html import run_name, shown_run

    assert outcome.compression is not None
    (answered,), config = outcome.answered, outcome.condition.config
    name, answers = run_name(outcome.condition.name, config), [(answered.question, answered.predicted)]
    run = shown_run(outcome.compression, name, command, answers, {"answer": answered.answer_ms})
    budget = run.budget_tokens if config.compresses else None
    return replace(run, budget_tokens=budget, peak_bytes={"answering": answered.answer_bytes})


def page_name(path: Path | None) -> str | None:
    """Return the page's name for JSON."""
    return None if path is None else str(path)


def tell_of_page(path: Path | None) -> None:
    """One line on stderr, if there is a page."""
    if path is not None:
        notify([f"the page is in {path}"])
