"""Write the page of a compression, and prepare the content of pages that compare several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aot.config.schema import Config
from aot.errors import ConfigError
from aot.reports.html.content import ShownRun, ShownVideo
from aot.reports.html.render import render_page
from aot.reports.retention import Compression
from aot.runtime.atomic_writes import write_text

__all__ = ["run_name", "shown_run", "shown_video", "unshown", "write"]


def write(
    compression: Compression,
    path: str | Path,
    *,
    command: str = "",
    answers: Sequence[tuple[str, str]] = (),
    answers_ms: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write a web page in one file that shows the kept tokens of a video.

    Args:
        compression: the result of `Pipeline.compress` with `traced=True`.
        path: path of the page.
        command: the command that reproduces the compression, or an empty string.
        answers: (question, answer) pairs to show.
        answers_ms: the time of all answers together.
        overwrite: whether to replace an existing file.

    Raises:
        ConfigError: If the compression was not traced.
        OutputError: If the file exists and `overwrite` is false, or it cannot be written.
    """
    config, notices = compression.report.config, compression.report.notices
    asked = {} if answers_ms is None else {"answer" if len(answers) == 1 else "answers": answers_ms}
    method = config.label if config.reduces_inside else config.method
    run = shown_run(compression, run_name(method, config), command, answers, asked)
    video = shown_video(compression, (*notices, *unshown([config])))
    write_text(Path(path), render_page(video, [run]), overwrite=overwrite)


def shown_run(
    compression: Compression,
    name: str,
    command: str,
    answers: Sequence[tuple[str, str]],
    answers_ms: Mapping[str, float],
) -> ShownRun:
    """Convert `compression` to a run of a page; `answers_ms` adds times that the report lacks."""
    report = compression.report
    return ShownRun(
        name=name,
        tokens=compression.tokens,
        frames=report.frames,
        visual_tokens=report.visual_tokens,
        budget_tokens=report.budget_tokens,
        costs_ms={**report.stage_ms, **answers_ms},
        peak_bytes=report.peak_bytes,
        command=command,
        config=report.config,
        answers=answers,
    )


def shown_video(compression: Compression, notices: Sequence[str]) -> ShownVideo:
    """Return the data that all compressions of one video with one model share."""
    video, pictures = compression.report.video, compression.pictures
    if pictures is None:
        raise ConfigError("a page shows frames, which this compression does not hold; compress with traced=True")
    facts = {
        "video": f"{video.width} x {video.height}, {video.duration_s:.2f} s, {video.codec}",
        "frames": str(len(pictures)),
        "model": str(compression.report.model),
    }
    if compression.report.reuse:
        facts["vision tower"] = compression.report.reuse
    size = video.width, video.height
    return ShownVideo(Path(video.path).name, size, pictures, facts, compression.report.versions, notices)


def run_name(method: str, config: Config) -> str:
    """Return `method` with the ratio, or `method` alone if the ratio does not set the budget."""
    return f"{method} at {100 * config.ratio:.4g} %" if config.has_budget else method


def unshown(configs: Iterable[Config]) -> list[str]:
    """Return a notice if `configs` have inner reductions, which pages do not show: [text] or []."""
    names = dict.fromkeys(config.inner.name for config in configs if config.reduces_inside)
    return (
        [f"{' and '.join(map(str, names))} drops more inside the language model, which is not shown"] if names else []
    )
