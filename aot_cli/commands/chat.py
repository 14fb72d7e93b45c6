"""`aot chat`: talk about a video or a tokens file, question after question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from aot.errors import AOTError, ConfigError
from aot.storage.tokens_file import is_tokens_file
from aot_cli.chat_lines import Lines, opened_lines
from aot_cli.chat_state import COMMANDS, Chat
from aot_cli.from_tokens import load_tokens_with_pipeline
from aot_cli.options import COMPRESSION, GENERATION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import notify, print_usage
from aot_cli.output.screen import print_text
from aot_cli.output.terminal_pictures import shows_pictures
from aot_cli.session import current, print_line
from aot_cli.signals import Terminated
from aot_cli.steps import choose_model_for_video, compress_with_progress, load_pipeline, opened_video, refuse_selection

__all__ = ["chat"]

_TOY = (
    "the toy model was trained on single questions: earlier turns mislead it more often than they help; "
    "/clear forgets them"
)


@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def chat(
    source: Annotated[
        str, typer.Argument(metavar="VIDEO|TOKENS", help="A video file or URL, or a tokens file.", show_default=False)
    ],
    given: Given,
    as_json: JSON = False,
) -> None:
    """Talk about a video: question after question, with streamed answers and earlier turns kept.

    Questions are typed in a terminal or piped, one per line. A line that begins with / is a
    command; /help lists them. With --json, every answer is an object on one line.

    aot chat clip.mp4
    """
    current().json_indent = None
    if source == "-":
        raise ConfigError("the lines on stdin are questions, so the video cannot be -; name a file or an address")
    with opened_lines(COMMANDS) as lines, _begun(source, given, lines.is_terminal) as state:
        _introduce(state)
        _talk(state, lines)


@contextmanager
def _begun(source: str, given: Given, is_typed: bool) -> Iterator[Chat]:
    """Load the model and compress the video; a video stays open, so that it can be read again."""
    if is_tokens_file(source):
        pipeline, kept = load_tokens_with_pipeline(source, given)
        yield Chat(source, given, pipeline, kept, None, is_typed)
        return
    refuse_selection(given)
    traced = is_typed and not current().as_json and shows_pictures()
    with opened_video(source, given) as video:
        pipeline = load_pipeline(choose_model_for_video(video, given))
        kept = compress_with_progress(pipeline, video, traced=traced)
        yield Chat(source, given, pipeline, kept, video, is_typed, traced)


def _introduce(state: Chat) -> None:
    report = state.kept.report
    notify([*report.notices, *([_TOY] if state.pipeline.model.identity.is_toy else [])])
    print_usage(report, report.stage_ms if state.video else {})
    if state.is_typed and not current().quiet:
        print_text("Ask a question. /help lists the commands; /exit or Ctrl-D ends.", to_stderr=True)


def _talk(state: Chat, lines: Lines) -> None:
    """Answer questions and run commands until the lines end.

    In a terminal, Ctrl-C stops an answer or a command, and an error is printed; then the next line
    is read. Of piped lines, the first error ends the command.
    """
    while not state.is_over:
        current().stage = ""  # nothing to report while the user thinks
        try:
            line = lines.read()
            if line is None:
                break
            if line.strip():
                state.handle(line.strip())
        except Terminated:
            raise
        except KeyboardInterrupt:
            if not lines.is_terminal:
                raise
            print_text("\n(stopped)" if current().stage else "\n(/exit or Ctrl-D ends)", to_stderr=True)
        except AOTError as error:
            if not lines.is_terminal:
                raise
            print_line(str(error))
