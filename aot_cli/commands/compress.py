"""`aot compress`: write the kept tokens of a video to a file, and report what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import OutputError
from aot.runtime.atomic_writes import write_text
from aot.runtime.paths import path_kind
from aot.storage.tokens_file import save_tokens
from aot_cli.options import COMPRESSION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import json_object, json_text, notify, print_json, usage_line
from aot_cli.output.describe import compression_json
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE, HTML, compression_page
from aot_cli.output.screen import print_text
from aot_cli.output.tables import frame_table, print_side
from aot_cli.session import current
from aot_cli.steps import choose_model_for_video, compress_with_progress, load_pipeline, opened_video, refuse_selection

if TYPE_CHECKING:
    from aot.reports.retention import RetentionReport

__all__ = ["compress"]

_SCHEMA = "aot.compress/1"


@command(SAMPLING, MODEL, COMPRESSION)
def compress(
    video: Annotated[str, typer.Argument(help="A video file or URL, or - for a video on stdin.", show_default=False)],
    given: Given,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="NAME.pt or NAME.safetensors (default: the video's name with .tokens.pt)."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write the report to a .json file, or to a .csv file with a row per frame."),
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="A question, for a method that keeps tokens by it.")
    ] = None,
    html: HTML = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Keep a tenth of a video's visual tokens and write them to a file.

    aot compress clip.mp4 --ratio 0.1
    """
    refuse_selection(given)
    output = output or _named_after(video, force=force)
    check_outputs(video, {"--output": output, "--report": report, "--html": html}, force=force)
    with opened_video(video, given) as file:
        pipeline = load_pipeline(choose_model_for_video(file, given))
        result = compress_with_progress(pipeline, file, question or (), traced=html is not None)
    save_tokens(output, result.tokens, result.report, overwrite=force)
    notify(result.report.notices)
    compression_page(html, result, ["compress", video, "-o", output.name], force=force)
    files = {"tokens_file": output, "report_file": report, "page_file": html}
    found = {**compression_json(video, result), **files}
    if report:
        _write_report(report, result.report, found, force=force)
    if as_json:
        print_json(_SCHEMA, found)
    else:
        if not current().quiet:
            print_side(frame_table(result.report.frames), usage_line(result.report, result.report.stage_ms))
        print_text(str(output))


def _named_after(video: str, *, force: bool) -> Path:
    """Return a file name in this folder, for example clip.tokens.pt for clip.mp4.

    Raises:
        OutputError: If the file exists, unless `force`.
    """
    path = Path("stdin.tokens.pt" if video == "-" else f"{Path(video).stem}.tokens.pt")
    if path_kind(path) == "file" and not force:
        raise OutputError(f"{path} exists; name another file with -o, or pass --force to replace it")
    return path


def _write_report(path: Path, report: RetentionReport, found: Mapping[str, object], *, force: bool) -> None:
    """Write the report to `path`: a row per frame if .csv, the object of `--json` if .json."""
    whole = json_text(json_object(_SCHEMA, found), ascii_only=False) + "\n"
    write_text(path, report.to_csv() if path.suffix.lower() == ".csv" else whole, overwrite=force)
