"""Entry point of the console script: light, so that an early Ctrl-C is answered too."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to fail
        from aot_cli.main import app

        app()
    except KeyboardInterrupt:
        print("aot: interrupted", file=sys.stderr)
        sys.exit(130)
