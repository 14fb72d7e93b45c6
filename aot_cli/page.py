"""`--html`: the page that shows what a run kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aot.errors import ConfigError

if TYPE_CHECKING:
    from aot.config import Config
    from aot.page import ShownRun, ShownVideo
    from aot.pipeline import Compression

__all__ = ["FORCE", "HTML", "check_page", "compression_page", "run_name", "shown_video", "write_page"]

HTML = Annotated[
    Path | None, typer.Option("--html", help="Also write a page that shows what was kept, to open in a browser.")
]
FORCE = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]


def check_page(path: Path | None, source: str, *, force: bool) -> None:
    """Before anything is loaded.

    Raises:
        ConfigError: the page cannot be made of this source, or is not called .html.
        OutputError: the page cannot be written.
    """
    if path is None:
        return
    from aot.files import check_writable
    from aot.tokens_file import is_tokens_file

    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"{path.name} must end in .html")
    if is_tokens_file(source):
        raise ConfigError("--html shows a video's frames, which a tokens file does not hold; name the video")
    check_writable(path, overwrite=force)


def write_page(path: Path, video: ShownVideo, runs: Sequence[ShownRun], *, force: bool) -> None:
    """Write the page whole or not at all.

    Raises:
        OutputError: see `aot.files`.
    """
    from aot.files import write_whole
    from aot.page import render_page

    text = render_page(video, runs)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=force)


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
    if path is None or result.trace is None:
        return
    from aot.page import ShownRun
    from aot_cli.reproduce import command_for

    report, trace = result.report, result.trace
    asked = {} if answers_ms is None else {"answer" if len(answers) == 1 else "answers": answers_ms}
    run = ShownRun(
        name=run_name(config.method, config),
        tokens=result.tokens,
        origin=trace.origin,
        frames=report.frames,
        visual_tokens=report.visual_tokens,
        budget_tokens=report.budget_tokens,
        costs_ms={**report.stage_ms, **asked},
        peak_bytes=report.peak_bytes,
        command=command_for(words, config),
        config=report.config,
        answers=answers,
    )
    video = shown_video(report.video, trace.pictures, report.model, report.versions, report.notices)
    write_page(path, video, [run], force=force)


def run_name(method: str, config: Config) -> str:
    """What a run is called beside others."""
    return f"{method} at {100 * config.ratio:.4g} %" if config.has_budget else method


def shown_video(
    video: Mapping[str, Any],
    pictures: Sequence[bytes],
    model: Mapping[str, Any],
    versions: Mapping[str, str],
    notices: Sequence[str],
) -> ShownVideo:
    """What all runs on one video share."""
    from aot.page import ShownVideo

    facts = {
        "video": f"{video['width']} x {video['height']}, {video['duration_s']:.2f} s, {video['codec']}",
        "frames": str(len(pictures)),
        "model": f"{model['name']} on {model['device']}, {model['dtype']}",
    }
    size = video["width"], video["height"]
    return ShownVideo(Path(video["path"]).name, size, pictures, facts, dict(versions), tuple(notices))
