"""Declare the commands of `aot`; the module of a command is imported when the command is called."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aot import __version__
from aot.runtime.paths import path_kind
from aot_cli.entry import session_of_words
from aot_cli.output.console import explain
from aot_cli.output.screen import print_text, visible

__all__ = ["COMMANDS", "app", "load_command"]

# By command: the function in `aot_cli.commands.COMMAND`, and the first sentence of its docstring.
COMMANDS = {
    "demo": ("demo", "Draw a clip, keep a tenth of its tokens, and compare the answers with those of all tokens."),
    "ask": ("ask", "Answer questions about a video with a tenth of its visual tokens."),
    "chat": ("chat", "Talk about a video: question after question, with streamed answers and earlier turns kept."),
    "compress": ("compress", "Keep a tenth of a video's visual tokens and write them to a file."),
    "batch": ("batch", "Compress many videos, and answer questions about each of them."),
    "serve": ("serve", "Answer questions about videos by HTTP, in the form of the OpenAI API."),
    "export": ("export", "Write the language model of a checkpoint as a folder of its own, for engines such as vLLM."),
    "inspect": ("inspect_command", "Describe a video: its format, its sampled frames and how keyframes group them."),
    "compare": ("compare", "Compare the answers, tokens, times and memory of several methods for one question."),
    "eval": ("evaluate_command", "Evaluate the accuracy of methods at several ratios on a set of questions."),
    "tune": ("tune_command", "Find the smallest ratio, and the method, that stay within a stated loss on your videos."),
    "bench": ("app", "Measure time and memory: from `video` file to answer, or of the `compressor` alone."),
    "methods": ("list_methods", "List the values of --method and --inner, or describe one with its settings."),
    "presets": ("app", "List the presets (named settings), or show one with its source."),
    "settings": ("list_settings", "List all settings: type, range, default and meaning; or their values and sources."),
    "doctor": ("doctor", "Show versions, devices, decoders, optional packages and the model cache."),
}  # fmt: skip


class _Deferred(TyperCommand):
    """A command whose module is not imported yet."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Import the command, and return its context for `arguments`."""
        return load_command(str(self.name)).make_context(*arguments, **settings)


@cache
def load_command(name: str) -> Any:
    """Import a command and return it as a typer command."""
    found, parent = getattr(import_module(f"aot_cli.commands.{name}"), COMMANDS[name][0]), typer.Typer()
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name)(found)
    return typer.main.get_group(parent).commands[name]


class _Commands(TyperGroup):
    """The group of all commands; its usage errors contain no control characters."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Read the arguments; escape control characters in error messages."""
        with _safe_messages():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; escape control characters in error messages."""
        with _safe_messages():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command; if the first word is a video, fail and suggest `aot ask`."""
        name = args[0]
        if self.get_command(ctx, name) is None and ("://" in name or path_kind(name) == "file"):
            ctx.fail(f'{name} is not a command. Did you mean: aot ask {shlex.quote(name)} "what happens?"')
        return super().resolve_command(ctx, args)


@contextmanager
def _safe_messages() -> Iterator[None]:
    """Escape control characters in typer's usage errors; report Ctrl-C before a command starts."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(explain(error, session_of_words())) from None
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):
            error.message = visible(error.message)
        raise


app = typer.Typer(
    name="aot",
    cls=_Commands,
    help="Ask questions of a video with a tenth of the visual tokens.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, (_, _line) in COMMANDS.items():
    app.command(_name, cls=_Deferred, help=_line)(lambda: None)


@app.command("help")
def show_help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="The name of a command, for example ask.", show_default=False),
    ] = None,
) -> None:
    """Show the help of aot or of one command; same as --help."""
    root = context.find_root()
    root.command.main([*(words or []), "--help"], prog_name=root.info_name)


@app.command("version")
def show_version() -> None:
    """Print the version; same as --version."""
    _print_version(wanted=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"aot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Ask questions of a video with a tenth of the visual tokens.

    Settings come from flags, AOT_* variables, ./aot.yaml and presets, in this order of priority.
    Results are printed to stdout, everything else to stderr.
    """
