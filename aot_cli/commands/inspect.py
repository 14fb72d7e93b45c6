"""`aot inspect`: describe a video, its groups of frames and, with a model, its kept tokens."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import ConfigError
from aot.storage.tokens_file import is_tokens_file, load_tokens
from aot_cli.options import COMPRESSION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import StageBars, notify, print_json
from aot_cli.output.describe import VideoDescription, compression_json, describe_video, show_compression, show_video
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE, HTML, compression_page
from aot_cli.output.strips import strips_of_file, strips_of_pictures
from aot_cli.output.terminal_pictures import ClipStrips, shows_pictures
from aot_cli.steps import choose_model_for_video, compress_with_progress, load_pipeline, opened_video, refuse_selection

if TYPE_CHECKING:
    from aot.config.schema import Config
    from aot.reports.retention import Compression
    from aot.video import VideoFile

__all__ = ["inspect_command"]


@command(SAMPLING, MODEL, COMPRESSION)
def inspect_command(
    source: Annotated[str, typer.Argument(metavar="VIDEO|TOKENS", help="A video file or URL, or a tokens file.")],
    given: Given,
    overlay: Annotated[
        Path | None,
        typer.Option(
            "--overlay",
            metavar="OUT.mp4",
            help="With --model: write the video with discarded patches dimmed and keyframes marked (H.264).",
        ),
    ] = None,
    html: HTML = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Describe a video: its format, its sampled frames and how keyframes group them.

    With --model, compress the video as `aot compress` does and show the kept tokens per frame.
    """
    found: VideoDescription | Compression
    strips, pictured = None, not as_json and shows_pictures()
    with_model = given.is_typed("model.name")
    if overlay:
        _check_overlay(source, overlay, force=force, with_model=with_model)
    if html and not with_model and not is_tokens_file(source):
        raise ConfigError("--html shows which tokens a model keeps; add --model, for example --model shapes")
    check_outputs(source, {"--overlay": overlay, "--html": html}, force=force)
    if is_tokens_file(source):
        found = load_tokens(source)
    else:
        refuse_selection(given)
        if with_model:
            found, strips = _compress(source, given, html, overlay, force=force, pictured=pictured)
        else:
            config = given.resolved
            with opened_video(source, given) as video:
                found = describe_video(video.index, config)
                strips = strips_of_file(video, found, config.sampling) if pictured else None
    notify(found.notices if isinstance(found, VideoDescription) else found.report.notices)
    if isinstance(found, VideoDescription):
        if as_json:
            print_json("aot.inspect.video/1", asdict(found))
        else:
            show_video(source, found, strips)
    elif as_json:
        files = {"page_file": html, "overlay_file": overlay}
        print_json("aot.inspect.kept/1", {**compression_json(source, found), **files})
    else:
        show_compression(source, found, strips)


def _check_overlay(source: str, overlay: Path, *, force: bool, with_model: bool) -> None:
    from aot.reports.overlay import check_overlay

    if is_tokens_file(source):
        raise ConfigError(f"{source} is a tokens file, without pictures; --overlay needs the video, and --model")
    if not with_model:
        raise ConfigError("--overlay shows which tokens a model keeps; add --model, for example --model shapes")
    check_overlay(source, overlay, overwrite=force)


def _compress(
    source: str, given: Given, html: Path | None, overlay: Path | None, *, force: bool, pictured: bool
) -> tuple[Compression, ClipStrips | None]:
    """Compress the video, write page and overlay, return the result and, if `pictured`, strips."""
    with opened_video(source, given) as video:
        pipeline = load_pipeline(choose_model_for_video(video, given))
        config, traced = pipeline.config, bool(pictured or html or overlay)
        result = compress_with_progress(pipeline, video, traced=traced)
        notify(result.report.notices)
        if overlay:
            _write_overlay(video, overlay, result, config, force=force)
        compression_page(html, result, ["inspect", source], force=force)
    return result, strips_of_pictures(result, result.pictures) if pictured and result.pictures else None


def _write_overlay(video: VideoFile, overlay: Path, result: Compression, config: Config, *, force: bool) -> None:
    from aot.reports.overlay import token_fates, write_overlay

    tokens = token_fates(result.tokens)
    with StageBars() as bars:
        write_overlay(video, overlay, tokens, config.sampling, partial(bars, "overlay"), overwrite=force)
    notify([f"the overlay is in {overlay}"])
