"""`aot ask`: answer questions about a video or about a tokens file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import ConfigError
from aot.pipeline.replies import Reply, write_reply
from aot.reports.retention import language_model_load, versions
from aot.runtime.paths import path_kind
from aot.serving.engines.options import TRANSFORMERS, EngineOptions
from aot.storage.tokens_file import is_tokens_file
from aot.text import check_question_text
from aot_cli.from_tokens import load_tokens_with_pipeline
from aot_cli.options import COMPRESSION, GENERATION, JSON, MODEL, SAMPLING, Given, command
from aot_cli.output.console import log, notify, print_json, print_usage
from aot_cli.output.describe import compression_json
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE, HTML, compression_page
from aot_cli.output.reproduce import ask_words
from aot_cli.output.screen import print_text
from aot_cli.session import current
from aot_cli.steps import (
    choose_model_for_video,
    load_pipeline,
    log_decisions,
    opened_video,
    queue_with_progress,
    unknown_words,
)

if TYPE_CHECKING:
    from aot.pipeline.run import Compression, Pipeline
    from aot.types import CompressedTokens

__all__ = ["ask"]


@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def ask(
    source: Annotated[
        str,
        typer.Argument(metavar="VIDEO|TOKENS", help="A video file or URL, a tokens file, or - for a video on stdin."),
    ],
    given: Given,
    engine: EngineOptions,
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="The question to answer.", show_default=False)
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-q",
            help="Ask another question of the same encoded video. Questions may also be lines on stdin.",
        ),
    ] = None,
    html: HTML = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Answer questions about a video with a tenth of its visual tokens.

    aot ask clip.mp4 "what happens?"
    """
    questions = _questions(source, question or [], more)
    tokens_given = is_tokens_file(source)
    check_outputs(source, {"--html": html}, force=force)
    made = (
        load_tokens_with_pipeline(source, given, engine)
        if tokens_given
        else _from_video(source, given, engine, questions, traced=html is not None)
    )
    pipeline, compression = made
    config, model = pipeline.config, pipeline.model

    def announce() -> None:
        # The report waits for the device, which by now also has the prompt to read.
        if not tokens_given:
            log_decisions(compression)
        notify([*compression.report.notices, *unknown_words(model, questions)])

    replies = _replies(pipeline, compression.tokens, questions, announce, stream=not as_json)
    report = compression.report
    answers_ms = sum(reply.answer_ms for reply in replies)
    pairs = [(question, reply.text) for question, reply in zip(questions, replies, strict=True)]
    words = ask_words(source, questions)
    compression_page(html, compression, words, force=force, answers=pairs, answers_ms=answers_ms)
    stage_ms = {} if tokens_given else report.stage_ms  # the times in a file are those of another run
    if as_json:
        import torch

        from aot.pipeline.report import model_record
        from aot.runtime.stages import peak_bytes_on

        found = {
            "answer": replies[0].text,
            "answers": [_row(question, reply) for question, reply in zip(questions, replies, strict=True)],
            "language_model_load": language_model_load(replies[0].layer_tokens, report.visual_tokens),
            **compression_json(source, compression),
            "stage_ms": stage_ms,
            "toy_model": model.identity.is_toy,
            "model": report.model.to_dict() | model_record(model).to_dict(),
            "config": config.to_dict(),
            "versions": versions(),
            "peak_bytes": peak_bytes_on(torch.device(model.placement["device"])),
            "page_file": html,
            **({} if engine == TRANSFORMERS else {"engine": engine.name}),
        }
        print_json("aot.ask/1", found)
    else:
        print_usage(report, {**stage_ms, "answer" if len(replies) == 1 else "answers": answers_ms})


def _questions(source: str, words: list[str], more: list[str] | None) -> list[str]:
    """Return the questions: `words` as one, then `more`; if both are empty, the lines of stdin."""
    _check_words(words)
    questions = [*([" ".join(words)] if words else []), *(more or [])]
    if not questions and source != "-" and not sys.stdin.isatty():
        try:
            questions = [line.strip() for line in sys.stdin if line.strip()]
        except UnicodeDecodeError:
            raise ConfigError("the questions on stdin are not UTF-8 text; give one question per line") from None
    if not questions:
        raise ConfigError('there is no question; give one: aot ask VIDEO "what happens?"')
    if any(not text.strip() for text in questions):
        raise ConfigError("a question is empty; give its text")
    for text in questions:
        check_question_text(text)
    return questions


def _check_words(words: list[str]) -> None:
    """Check that `words` of the command line form one question.

    Raises:
        ConfigError: If a word is a file, or if `words` are several questions.
    """
    for word in words:
        if Path(word).suffix and path_kind(word) == "file":
            raise ConfigError(f"the question {word} is a file; give one video first, then the question")
    if len(words) > 1 and any(len(word.split()) > 1 for word in words):
        raise ConfigError(f"{shlex.join(words)} are several questions; give each after the first with -q")


def _from_video(
    source: str, given: Given, engine: EngineOptions, questions: list[str], *, traced: bool
) -> tuple[Pipeline, Compression]:
    with opened_video(source, given) as video:
        pipeline = load_pipeline(choose_model_for_video(video, given), engine=engine)
        return pipeline, queue_with_progress(pipeline, video, questions, traced=traced)


def _replies(
    pipeline: Pipeline, tokens: CompressedTokens, questions: list[str], announce: Callable[[], None], *, stream: bool
) -> list[Reply]:
    """Answer every question; with `stream`, print the text while it is generated.

    `announce` is called before the first text, while the device reads the first prompt.
    """
    answers = pipeline.answers(tokens, questions)
    replies: list[Reply] = []

    def begin_text() -> None:
        if not replies:
            announce()
        if stream and len(questions) > 1:
            print_text(f"Q: {questions[len(replies)]}\nA: ", end="")

    for number in range(1, len(questions) + 1):
        current().stage = f"answer {number} of {len(questions)}"
        reply = write_reply(lambda: next(answers), _print_piece if stream else lambda text: None, begin_text)
        if stream:
            print_text()
        notify([*reply.notices, *([] if reply.text.strip() else ["the model's answer is empty"])])
        log(f"answer: {reply.prompt_tokens} tokens read, {reply.output_tokens} written, {reply.answer_ms:.0f} ms")
        replies.append(reply)
    return replies


def _print_piece(text: str) -> None:
    print_text(text, end="")


def _row(question: str, reply: Reply) -> dict[str, object]:
    """Return a question and its answer as plain values."""
    return {
        "question": question,
        "answer": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "output_tokens": reply.output_tokens,
        "first_token_ms": reply.first_token_ms,
        "answer_ms": reply.answer_ms,
    }
