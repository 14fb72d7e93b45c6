"""Ask the user of a terminal for consent."""

from __future__ import annotations

import sys

from aot_cli.output.screen import one_line, print_text
from aot_cli.session import current

__all__ = ["agrees"]


def agrees(question: str) -> bool:
    """Ask a question on stderr and return whether the answer is yes.

    Return False without asking if stdin or stderr is not a terminal, or with --quiet or --json.
    """
    session = current()
    if session.as_json or session.quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print_text(f"aot: {one_line(question)} [y/N] ", end="", to_stderr=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
