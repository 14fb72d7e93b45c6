"""Print text without control characters; file names, tokens files and answers may contain some.

Control characters can move the cursor, change colors and titles, and open links; directional
overrides can disguise a name. `print_text` prints text; `aot_cli.output.safe_console` prints tables
and progress bars.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from aot.text import UNSAFE, one_line, visible

__all__ = ["drop_unwritten", "escaped", "one_line", "print_text", "visible"]


def escaped(json_text: str) -> str:
    """Return `json_text` with JSON escapes for the characters that `visible` replaces."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", json_text)


def print_text(text: str = "", *, end: str = "\n", to_stderr: bool = False) -> None:
    """Print text without control characters and flush; ignore a closed or full stderr."""
    try:
        print(visible(text), end=end, file=sys.stderr if to_stderr else sys.stdout, flush=True)
    except OSError:
        if not to_stderr:
            raise
        drop_unwritten(sys.stderr)


def drop_unwritten(stream: TextIO) -> None:
    """Flush `stream`; if this fails, drop what is unwritten, so that the exit code is unchanged."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
