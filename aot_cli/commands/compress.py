"""`aot compress`: write the kept tokens of a video to a file, and report what was kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aot.errors import ConfigError, OutputError
from aot.runtime.atomic_writes import write_text
from aot.runtime.paths import path_kind
from aot.serving.engines.options import check_prompts
from aot.serving.engines.vllm_http import prompt_body
from aot.storage.tokens_file import save_tokens
from aot.text import check_question_text
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
    from aot.pipeline.run import Compression, Pipeline
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
    file_format: Annotated[
        Literal["tokens", "prompt-embeds"],
        typer.Option("--format", help="prompt-embeds: a .json file with the whole prompt, to post to a vLLM server."),
    ] = "tokens",
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write the report to a .json file, or to a .csv file with a row per frame."),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="A question, for a method that keeps tokens by it, or for the prompt."),
    ] = None,
    html: HTML = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Keep a tenth of a video's visual tokens and write them to a file.

    aot compress clip.mp4 --ratio 0.1
    """
    prompt = _prompt_question(file_format, question or (), given)
    if prompt is None:
        refuse_selection(given)
    ending = None if prompt is None else ".json"
    output = output or _named_after(video, ".tokens.pt" if prompt is None else ".prompt.json", force=force)
    check_outputs(video, {"--output": output, "--report": report, "--html": html}, force=force, output_ending=ending)
    with opened_video(video, given) as file:
        pipeline = load_pipeline(choose_model_for_video(file, given), as_embeddings=prompt is not None)
        result = compress_with_progress(pipeline, file, question or (), traced=html is not None)
    if prompt is None:
        save_tokens(output, result.tokens, result.report, overwrite=force)
    else:
        _write_prompt(output, pipeline, result, prompt, force=force)
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


def _prompt_question(file_format: str, questions: Sequence[str], given: Given) -> str | None:
    """Return the question of the prompt to write, or None if a tokens file is written.

    Raises:
        ConfigError: If there is not one question.
        UnsupportedError: If embeddings alone do not say what the language model is to read.
    """
    if file_format == "tokens":
        return None
    if len(questions) != 1:
        raise ConfigError('--format prompt-embeds writes a whole prompt; give one question: -q "what happens?"')
    check_question_text(questions[0])
    check_prompts(given.resolved)
    return questions[0]


def _named_after(video: str, ending: str, *, force: bool) -> Path:
    """Return a file name in this folder, for example clip.tokens.pt for clip.mp4.

    Raises:
        OutputError: If the file exists, unless `force`.
    """
    path = Path(("stdin" if video == "-" else Path(video).stem) + ending)
    if path_kind(path) == "file" and not force:
        raise OutputError(f"{path} exists; name another file with -o, or pass --force to replace it")
    return path


def _write_prompt(path: Path, pipeline: Pipeline, kept: Compression, question: str, *, force: bool) -> None:
    """Write the body of a request to /v1/completions of a vLLM server."""
    body = prompt_body(pipeline.model, kept.tokens, question, pipeline.config.generation)
    write_text(path, json.dumps(body) + "\n", overwrite=force)


def _write_report(path: Path, report: RetentionReport, found: Mapping[str, object], *, force: bool) -> None:
    """Write the report to `path`: a row per frame if .csv, the object of `--json` if .json."""
    whole = json_text(json_object(_SCHEMA, found), ascii_only=False) + "\n"
    write_text(path, report.to_csv() if path.suffix.lower() == ".csv" else whole, overwrite=force)
