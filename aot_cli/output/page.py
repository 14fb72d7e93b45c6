"""`--html`: the page that shows what a run kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aot.errors import ConfigError
from aot_cli.output.console import notify

if TYPE_CHECKING:
    from aot.config.schema import Config
    from aot.evaluation import Outcome
    from aot.pipeline.run import Compression
    from aot.reports.html import ShownRun, ShownVideo

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
    from aot.storage.tokens_file import is_tokens_file

    if path is not None and is_tokens_file(source):
        raise ConfigError("--html shows a video's frames, which a tokens file does not hold; name the video")


def compression_page(
    path: Path | None,
    result: Compression,
    config: Config,
    words: Sequence[str],
    *,
    force: bool,
    answers: Sequence[tuple[str, str]] = (),
    answers_ms: float | None = None,
) -> None:
    """The page of one run, if one was asked for. words: of the command that does it again, with the video's path.
    answers: questions and answers, which took answers_ms.
    """
    if path is None or result.pictures is None:
        return
    from aot.reports.html import ShownRun
    from aot_cli.output.reproduce import command_for

    report = result.report
    asked = {} if answers_ms is None else {"answer" if len(answers) == 1 else "answers": answers_ms}
    run = ShownRun(
        name=_run_name(config.method, config),
        tokens=result.tokens,
        frames=report.frames,
        visual_tokens=report.visual_tokens,
        budget_tokens=report.budget_tokens,
        costs_ms={**report.stage_ms, **asked},
        peak_bytes=report.peak_bytes,
        command=command_for(words, config),
        config=report.config,
        answers=answers,
    )
    notices = (*report.notices, *_not_shown([config]))
    video = _shown_video(report.video, result.pictures, report.model, report.versions, notices)
    _write(path, video, [run], force=force)


def comparison_page(
    path: Path,
    outcomes: Sequence[Outcome],
    question: str,
    model: Mapping[str, Any],
    command: str,
    notices: Sequence[str],
    *,
    force: bool,
) -> None:
    """Write the page of the methods that answered a question."""
    compressions = [outcome.compression for outcome in outcomes if outcome.compression]
    pictures, report = compressions[0].pictures, compressions[0].report
    assert pictures is not None
    told = [*notices, *_not_shown(outcome.condition.config for outcome in outcomes)]
    video = _shown_video(report.video, pictures, model, report.versions, told)
    _write(path, video, [_compared(outcome, question, command) for outcome in outcomes], force=force)


def _compared(outcome: Outcome, question: str, command: str) -> ShownRun:
    from aot.reports.html import ShownRun

    assert outcome.compression is not None
    (answered,), config, report = outcome.answered, outcome.condition.config, outcome.compression.report
    return ShownRun(
        name=_run_name(outcome.condition.name, config),
        tokens=outcome.compression.tokens,
        frames=report.frames,
        visual_tokens=report.visual_tokens,
        budget_tokens=report.budget_tokens if config.compresses else None,
        costs_ms={**report.stage_ms, "answer": answered.answer_ms},
        peak_bytes={"answering": answered.answer_bytes},
        command=command,
        config=report.config,
        answers=[(question, answered.predicted)],
    )


def _not_shown(configs: Iterable[Config]) -> list[str]:
    """A note on what happens after all that a page shows."""
    names = dict.fromkeys(config.inner.name for config in configs if config.reduces_inside)
    return (
        [f"{' and '.join(map(str, names))} drops more inside the language model, which is not shown"] if names else []
    )


def page_name(path: Path | None) -> str | None:
    """Return the page's name for JSON."""
    return None if path is None else str(path)


def tell_of_page(path: Path | None) -> None:
    """One line on stderr, if there is a page."""
    if path is not None:
        notify([f"the page is in {path}"])


def _run_name(method: str, config: Config) -> str:
    """Return the name of a run among others."""
    name = f"{method}+{config.inner.name}" if config.reduces_inside and "+" not in method else method
    return f"{name} at {100 * config.ratio:.4g} %" if config.has_budget else name


def _shown_video(
    video: Mapping[str, Any],
    pictures: Sequence[bytes],
    model: Mapping[str, Any],
    versions: Mapping[str, str],
    notices: Sequence[str],
) -> ShownVideo:
    """What all runs on one video share."""
    from aot.reports.html import ShownVideo

    facts = {
        "video": f"{video['width']} x {video['height']}, {video['duration_s']:.2f} s, {video['codec']}",
        "frames": str(len(pictures)),
        "model": f"{model['name']} on {model['device']}, {model['dtype']}",
    }
    size = video["width"], video["height"]
    return ShownVideo(Path(video["path"]).name, size, pictures, facts, dict(versions), tuple(notices))


def _write(path: Path, video: ShownVideo, runs: Sequence[ShownRun], *, force: bool) -> None:
    """Write the page whole or not at all.

    Raises:
        OutputError: see `aot.runtime.atomic_writes`.
    """
    from aot.reports.html import render_page
    from aot.runtime.atomic_writes import write_text

    write_text(path, render_page(video, runs), overwrite=force)
