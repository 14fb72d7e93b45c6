"""The table of commands. `aot --help` shows it; the module of a command is imported when the command is called."""

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

# NAME: the command's name in `aot_cli.commands.NAME`, and the sentence with which its docstring begins.
COMMANDS = {
    "demo": ("demo", "Draw a clip, inspect it, keep a tenth of its tokens, and ask with all of them and the tenth."),
    "ask": ("ask", "Ask a video something, with a tenth of its visual tokens."),
    "compress": ("compress", "Keep a tenth of a video's visual tokens and write them to a file."),
    "inspect": ("inspect_command",
                "What a file is, which frames would be looked at, and how they are grouped around keyframes."),
    "compare": ("compare", "Ask one question after every method, from one encoding of the video: answers, tokens, "
                           "times, memory."),
    "eval": ("evaluate_command",
             "Compare methods at ratios by the answers they lead to, paired over the same questions."),
    "bench": ("app", "Time and memory: from `video` to answer, or of the `compressor` alone."),
    "methods": ("list_methods", "What --method and --inner choose from: where each acts, what it needs and keeps, its "
                                "paper; or all about one."),
    "presets": ("app", "Named settings: `list` them, or `show` one with its source."),
    "settings": ("list_settings", "Every setting: type, range, default and meaning; or its value and where it comes "
                                  "from."),
    "doctor": ("doctor", "Versions, devices, decoders, what large models need, model cache and offline state."),
}  # fmt: skip


class _Deferred(TyperCommand):
    """A line of the table."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        return load_command(str(self.name)).make_context(*arguments, **settings)


@cache
def load_command(name: str) -> Any:
    """Import a command of the table, and return it as typer calls it."""
    found, parent = getattr(import_module(f"aot_cli.commands.{name}"), COMMANDS[name][0]), typer.Typer()
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name)(found)
    return typer.main.get_group(parent).commands[name]


class _Commands(TyperGroup):
    """The commands; a video in place of one is met with the command that was probably meant."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with _safe_messages():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _safe_messages():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and ("://" in name or path_kind(name) == "file"):
            ctx.fail(f'{name} is no command. Did you mean: aot ask {shlex.quote(name)} "what happens?"')
        return super().resolve_command(ctx, args)


@contextmanager
def _safe_messages() -> Iterator[None]:
    """typer prints what is wrong with the command line itself, which quotes the command line; and of an interruption
    before a command begins it says nothing.
    """
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
        list[str] | None, typer.Argument(metavar="COMMAND", help="For instance ask.", show_default=False)
    ] = None,
) -> None:
    """What aot, or a command of it, takes; as --help."""
    root = context.find_root()
    root.command.main([*(words or []), "--help"], prog_name=root.info_name)


@app.command("version")
def show_version() -> None:
    """Print the version; as --version."""
    _print_version(wanted=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"aot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Ask questions of a video with a tenth of the visual tokens.

    Settings come from flags, AOT_* variables, ./aot.yaml and presets, in this order. Results go to
    stdout, everything else to stderr.
    """
