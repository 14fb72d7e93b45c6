"""The session of one command: its verbosity, its notes and its messages on stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from aot.errors import ConfigError
from aot_cli.output.screen import one_line, print_text

__all__ = ["Session", "begin", "current", "print_line"]

PROGRESS_EVERY_S = 10.0  # if stderr is not a terminal


@dataclass(slots=True)
class Session:
    """One run of a command.

    Attributes:
        as_json: Print the result as one JSON object.
        quiet: Print only errors on stderr.
        verbose: Print stages, times and decisions on stderr.
        debug: Print tracebacks.
        notices: All notes so far, for the JSON object.
        stage: The current work, for progress messages; empty while the command waits for the user.
        json_indent: Spaces per level of JSON objects; None prints an object on one line.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    notices: list[str] = field(default_factory=list)
    stage: str = "starting"
    json_indent: int | None = 2
    started_s: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the command started."""
        return time.perf_counter() - self.started_s

    @property
    def shows_progress(self) -> bool:
        """Return whether to print progress bars and times: on a terminal, without --quiet."""
        return not self.quiet and sys.stderr.isatty()

    def notify(self, notice: str, *, even_if_quiet: bool = False) -> None:
        """Record a note and print it; ignore a repeated note."""
        if notice in self.notices:
            return
        self.notices.append(notice)
        if even_if_quiet or not self.quiet:
            print_line(f"note: {notice}")


_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session:
    """Return the session of the running command; outside of commands, return a new session."""
    return _CURRENT.get() or Session()


def print_line(message: str) -> None:
    """Print a message on stderr as one line."""
    print_text(f"aot: {one_line(message)}", to_stderr=True)


@contextmanager
def begin(session: Session) -> Iterator[None]:
    """Make `session` current and turn library warnings into notes; if verbose, print the log.

    Raises:
        ConfigError: If `session` is both quiet and verbose.
    """
    if session.quiet and session.verbose:
        raise ConfigError("--quiet and --verbose contradict each other; give one")
    token = _CURRENT.set(session)
    try:
        with _warnings_as_notices(session), _shown_log(session), _progress_lines(session):
            yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def _warnings_as_notices(session: Session) -> Iterator[None]:
    """Turn Python's warnings into notes; deprecation and future warnings are only logged."""

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        line = " ".join(str(message).split())
        if issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
            logging.getLogger("aot").info(line)
        else:
            session.notify(line)

    shown, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = shown


class _Lines(logging.Handler):
    """A log handler that prints lines on stderr, with the seconds since the command started."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.INFO)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print_line(f"{self._session.elapsed_s:.2f} s: {record.getMessage()}")


@contextmanager
def _shown_log(session: Session) -> Iterator[None]:
    if not session.verbose:
        yield
        return
    logger, handler = logging.getLogger("aot"), _Lines(session)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _progress_lines(session: Session) -> Iterator[None]:
    """Print the current stage every ten seconds if stderr is not a terminal (no progress bars)."""
    if session.quiet or sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def print_stages() -> None:
        while not over.wait(PROGRESS_EVERY_S):
            if session.stage:
                print_line(f"{session.elapsed_s:.0f} s: {session.stage}")

    threading.Thread(target=print_stages, name="aot-progress", daemon=True).start()
    try:
        yield
    finally:
        over.set()
