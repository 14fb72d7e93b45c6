"""`aot compress`: write a video's kept tokens to a file, and report what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import OutputError
from aot.runtime.atomic_writes import write_text
from aot.runtime.paths import path_kind
from aot.storage.tokens_file import save_tokens
from aot_cli.options import COMPRESSION, MODEL, SAMPLING, Given, command
from aot_cli.output.console import json_object, json_text, notify, print_json, usage_line
from aot_cli.output.describe import compression_json
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE, HTML, check_pictures, compression_page, page_name, tell_of_page
from aot_cli.output.screen import print_text
from aot_cli.output.tables import frame_table, print_side
from aot_cli.run import (
    choose_model_for_video,
    compress_with_progress,
    load_pipeline,
    opened_video,
    refuse_selection,
)
from aot_cli.session import current

if TYPE_CHECKING:
    from aot.reports.retention import RetentionReport

__all__ = ["compress"]

_SCHEMA = "aot.compress/1"


@command(SAMPLING, MODEL, COMPRESSION)
def compress(
    video: Annotated[str, typer.Argument(help="A video file or address, or - for stdin.", show_default=False)],
    given: Given,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="NAME.pt or NAME.safetensors; by itself the video's name with .tokens.pt."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write the report, as .json or .csv (one row per frame).")
    ] = None,
    html: HTML = None,
    force: FORCE = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Keep a tenth of a video's visual tokens and write them to a file.

    aot compress clip.mp4 --ratio 0.1
    """
    refuse_selection(given)
    output = output or _named_after(video, force=force)
    check_pictures(html, video)
    check_outputs(video, {"--output": output, "--report": report, "--html": html}, force=force)
    with opened_video(video, given) as file:
        pipeline = load_pipeline(choose_model_for_video(file, given))
        result = compress_with_progress(pipeline, file, traced=html is not None)
    save_tokens(output, result.tokens, result.report, overwrite=force)
    compression_page(html, result, ["compress", video, "-o", output.name], force=force)
    notify(result.report.notices)
    tell_of_page(html)
    files = {"tokens_file": str(output), "report_file": str(report) if report else None, "page_file": page_name(html)}
    found = {**compression_json(video, result), **files}
    if report:
        _write_report(report, result.report, found, force=force)
    if as_json:
        print_json(_SCHEMA, found)
    else:
        print_summary(result.report)
        print_text(str(output))


def _named_after(video: str, *, force: bool) -> Path:
    """A file in this folder: "clip.tokens.pt" for any clip.mp4.

    Raises:
        OutputError: it is there already.
    """
    path = Path("stdin.tokens.pt" if video == "-" else f"{Path(video).stem}.tokens.pt")
    if path_kind(path) == "file" and not force:
        raise OutputError(f"{path} exists; name another file with -o, or pass --force to replace it")
    return path


def print_summary(report: RetentionReport) -> None:
    """The per-frame table and one line of totals, on stderr."""
    if current().quiet:
        return
    print_side(frame_table(report.frames), usage_line(report, report.stage_ms))


def _write_report(path: Path, report: RetentionReport, found: Mapping[str, object], *, force: bool) -> None:
    """Write the rows of the frames as .csv, or as .json what `--json` prints."""
    whole = json_text(json_object(_SCHEMA, found), ascii_only=False) + "\n"
    write_text(path, report.to_csv() if path.suffix.lower() == ".csv" else whole, overwrite=force)
