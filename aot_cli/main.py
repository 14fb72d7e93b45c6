"""Registers the commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aot import __version__
from aot.runtime.paths import path_kind
from aot_cli.commands import ask, bench, compare, compress, demo, doctor, eval, inspect, methods, presets, settings
from aot_cli.entry import session_of_words
from aot_cli.output.console import explain
from aot_cli.output.screen import print_text, visible

__all__ = ["app"]


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
app.command()(demo.demo)
app.command()(ask.ask)
app.command()(compress.compress)
app.command("inspect")(inspect.inspect_command)
app.command()(compare.compare)
app.command("eval")(eval.evaluate_command)
app.add_typer(bench.app, name="bench")
app.command("methods")(methods.list_methods)
app.add_typer(presets.app, name="presets")
app.command("settings")(settings.list_settings)
app.command()(doctor.doctor)


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
