"""Start the console script; this module imports little, so that an early Ctrl-C is reported."""

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
    """Run `main` as a console script.

    Two measures shorten `aot ask` with a tokens file from 4.3 s to 3.1 s: fewer garbage collections
    during imports, and an exit without freeing memory.
    """
    codes: list[int] = []

    def end_process() -> None:
        for stream in (sys.stdout, sys.stderr):
            drop_unwritten(stream)
        if codes:
            os._exit(codes[0])

    atexit.register(end_process)  # registered first, so it runs last
    gc.set_threshold(10_000)
    try:
        main()
    except SystemExit as left:
        codes.append(left.code if isinstance(left.code, int) else 1)
        raise


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and exit with the exit code of the command."""
    _replace_closed_streams()
    _remove_invalid_sizes()
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
                stream.reconfigure(errors="replace")  # for characters that the terminal's encoding lacks
        from aot_cli.main import app

        app()
        sys.stdout.flush()
    except SystemExit as left:
        sys.exit(_finish(left))
    except (Exception, KeyboardInterrupt) as error:  # before a command started, or while printing its help
        from aot_cli.output.console import explain

        code, wrong = explain(error, session_of_words()), _wrong_line(error)
        sys.exit(wrong.exit_code if wrong else code)
    sys.exit(0)


def _replace_closed_streams() -> None:
    """Replace closed streams (`2>&-`) by the null device, so no file gets descriptor 0, 1 or 2."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _remove_invalid_sizes() -> None:
    """Unset COLUMNS and LINES if invalid; with invalid values, rich fails or prints nothing."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "")):
            os.environ.pop(name, None)


def _finish(left: SystemExit) -> int:
    """Return the exit code; if a usage error occurred with --json, print the error as JSON."""
    code, wrong = left.code if isinstance(left.code, int) else int(left.code is not None), _wrong_line(left)
    if wrong:
        code = wrong.exit_code  # typer's own code is 1 if stderr cannot be written
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
    """Return the first usage error of typer among `error` and its causes; None if there is none."""
    while error is not None and not hasattr(error, "format_message"):
        error = error.__context__
    return error


def session_of_words() -> Session:
    """Return a session for errors before flags are read; `as_json` tells if --json was typed."""
    from aot_cli.session import Session

    words = sys.argv[1:]
    flags = words[: words.index("--")] if "--" in words else words
    return Session(as_json="--json" in flags)
