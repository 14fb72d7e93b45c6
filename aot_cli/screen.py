"""Everything that is printed goes through here: names, tokens files and answers are text, not orders to a terminal.

A terminal acts on control characters: they move the cursor, change colors and titles, open links, and with directional
overrides a name reads as another one. `print_text` prints text, `aot_cli.safe_console` tables and progress bars.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

__all__ = ["drop_unwritten", "escaped", "one_line", "print_text", "visible"]

# Controls (C0 but newline and tab, DEL, C1), separators of lines and paragraphs, directional embeddings, overrides and
# isolates (Unicode Standard Annex 9), and halves of surrogate pairs, which a name that is not UTF-8 has in Python.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def visible(text: str) -> str:
    """Return the text with a mark for each character that a terminal might act on; newlines and tabs stay."""
    return _UNSAFE.sub(_REPLACEMENT, text)


def one_line(text: str) -> str:
    """Return the text as `visible` does, with spaces for newlines and tabs."""
    return visible(text.replace("\n", " ").replace("\t", " "))


def escaped(json_text: str) -> str:
    """Return the same JSON with escapes for the characters that `visible` replaces; JSON has them in strings only."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", json_text)


def print_text(text: str = "", *, end: str = "\n", to_stderr: bool = False) -> None:
    """Print to stdout, or to stderr, at once and nothing that a terminal might act on."""
    print(visible(text), end=end, file=sys.stderr if to_stderr else sys.stdout, flush=True)


def drop_unwritten(stream: TextIO) -> None:
    """Write what is left of a stream or, where it is full or its reader has left, forget it: Python would try again at
    its end, and change the exit code.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
