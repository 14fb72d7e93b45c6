"""Read the lines of `aot chat`, typed in a terminal or piped.

In a terminal, readline gives editing, completion of commands, and the questions of earlier runs.
Where Python has no readline (Windows), the terminal's own editing remains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from aot.errors import ConfigError
from aot_cli.output.screen import print_text

__all__ = ["Lines", "opened_lines"]

_PROMPT = ">>> "
_MOST_LINES = 1000  # in the file of earlier lines


class Lines:
    """The lines of stdin; in a terminal, a prompt asks for each.

    Attributes:
        is_terminal: whether a user types the lines.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()

    def read(self) -> str | None:
        """Return the next line without its end, or None after the last line.

        Raises:
            ConfigError: If the line is not UTF-8 text.
        """
        try:
            return self._typed() if self.is_terminal else self._piped()
        except UnicodeDecodeError:
            raise ConfigError("the line is not UTF-8 text; give one question per line") from None

    def _typed(self) -> str | None:
        # With readline, the prompt must be known to `input`. It goes to stdout, if that is a
        # terminal; a file gets only answers.
        shown = sys.stdout.isatty()
        if not shown:
            print_text(_PROMPT, end="", to_stderr=True)
        try:
            return input(_PROMPT if shown else "")
        except EOFError:
            print_text(to_stderr=True)  # the shell's prompt begins on a line of its own
            return None

    def _piped(self) -> str | None:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None


@contextmanager
def opened_lines(commands: Iterable[str]) -> Iterator[Lines]:
    """Yield the lines; in a terminal, complete `commands`, and keep the lines for later runs."""
    lines = Lines()
    readline = _readline() if lines.is_terminal else None
    if readline is None:
        yield lines
        return
    _complete(readline, commands)
    with suppress(OSError, RuntimeError):
        readline.read_history_file(_history_file())
    try:
        yield lines
    finally:
        with suppress(OSError, RuntimeError):
            file = _history_file()
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.set_history_length(_MOST_LINES)
            readline.write_history_file(file)


def _readline() -> Any:
    """Return Python's readline module, or None."""
    try:
        return import_module("readline")
    except ImportError:
        return None


def _complete(readline: Any, commands: Iterable[str]) -> None:
    """Let the tab key complete `commands`, which begin with a slash."""

    def complete(text: str, state: int) -> str | None:
        found = [command for command in commands if command.startswith(text)] if text else []
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _history_file() -> Path:
    """Return the file of earlier lines, which need not exist.

    Raises:
        RuntimeError: If the user has no home.
    """
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "aot" / "chat_history"
