"""Entry point of the console script: light, so that an early Ctrl-C is answered too."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from aot_cli.address_space import limit_of_process, refuse_imports
from aot_cli.output.screen import drop_unwritten
from aot_cli.signals import terminable

if TYPE_CHECKING:
    from aot_cli.session import Session

__all__ = ["main", "script", "session_of_words"]


def script() -> NoReturn:
    """Run `main` as a process of its own, which saves 1.2 of the 4.3 s of an answer from a tokens file.

    The garbage collector visits what libraries define less often while they are imported, and the
    process ends without freeing it.
    """
    codes: list[int] = []

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            drop_unwritten(stream)
        if codes:
            os._exit(codes[0])

    atexit.register(leave)  # the first one registered is the last to run
    gc.set_threshold(10_000)
    try:
        main()
    except SystemExit as left:
        codes.append(left.code if isinstance(left.code, int) else 1)
        raise


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    _replace_closed_streams()
    _forget_strange_sizes()
    if limit_bytes := limit_of_process():
        refuse_imports(limit_bytes)
    with terminable():
        try:
            _run()
        finally:
            drop_unwritten(sys.stderr)


def _run() -> NoReturn:
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to fail
        from aot_cli.main import app

        app()
        sys.stdout.flush()
    except SystemExit as left:
        sys.exit(_finish(left))
    except (Exception, KeyboardInterrupt) as error:  # before a command began, or while its help was printed
        from aot_cli.output.console import explain

        code, wrong = explain(error, session_of_words()), _wrong_line(error)
        sys.exit(wrong.exit_code if wrong else code)
    sys.exit(0)


def _replace_closed_streams() -> None:
    """Open the null device for streams that the shell has closed (`2>&-`): the next file would take their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _forget_strange_sizes() -> None:
    """Remove sizes of a terminal that no terminal has: rich fails on them, or draws nothing."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "")):
            os.environ.pop(name, None)


def _finish(left: SystemExit) -> int:
    """Return the exit code; a wrong command line, which typer has explained on stderr, is reported in JSON too."""
    code, wrong = left.code if isinstance(left.code, int) else int(left.code is not None), _wrong_line(left)
    if wrong:
        code = wrong.exit_code  # also where stderr, which is to say so, cannot be written to
    try:
        if wrong and session_of_words().as_json:
            from aot_cli.output.console import print_failure

            print_failure(wrong.format_message(), code, session_of_words())
        sys.stdout.flush()
    except OSError as error:
        from aot_cli.output.console import explain

        return explain(error, session_of_words())
    return code


def _wrong_line(error: BaseException | None) -> Any:
    """Return typer's exception about the command line that led to an error; None if there is none."""
    while error is not None and not hasattr(error, "format_message"):
        error = error.__context__
    return error


def session_of_words() -> Session:
    """Return what the command line asks for, where no command has read it."""
    from aot_cli.session import Session

    words = sys.argv[1:]
    flags = words[: words.index("--")] if "--" in words else words
    return Session(as_json="--json" in flags)
