"""Questions to whoever sits at the terminal."""

from __future__ import annotations

import sys

from aot_cli.output.screen import one_line, print_text
from aot_cli.session import current

__all__ = ["agrees"]


def agrees(question: str) -> bool:
    """Return whether the user says yes to a question, asked on stderr. Where nobody can be asked (a stream is no
    terminal, the run is to be quiet, its result is JSON), and where nothing is answered, that is a no.
    """
    session = current()
    if session.as_json or session.quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print_text(f"aot: {one_line(question)} [y/N] ", end="", to_stderr=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
