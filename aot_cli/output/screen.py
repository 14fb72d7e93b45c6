"""Everything that is printed goes through here: names, tokens files and answers are text, not orders to a terminal.

A terminal acts on control characters: they move the cursor, change colors and titles, open links, and with directional
overrides a name reads as another one. `print_text` prints text, `aot_cli.output.safe_console` tables and progress bars.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from aot.text import UNSAFE, one_line, visible

__all__ = ["drop_unwritten", "escaped", "one_line", "print_text", "visible"]


def escaped(json_text: str) -> str:
    """Return the same JSON with escapes for the characters that `visible` replaces; JSON has them in strings only."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", json_text)


def print_text(text: str = "", *, end: str = "\n", to_stderr: bool = False) -> None:
    """Print to stdout, or to stderr, at once and nothing that a terminal might act on. A stderr that is full, or whose
    reader has left, changes nothing of a command.
    """
    try:
        print(visible(text), end=end, file=sys.stderr if to_stderr else sys.stdout, flush=True)
    except OSError:
        if not to_stderr:
            raise
        drop_unwritten(sys.stderr)


def drop_unwritten(stream: TextIO) -> None:
    """Write what is left of a stream or, where it is full or its reader has left, forget it: Python would try again at
    its end, and change the exit code.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
