"""How one run of a command speaks: how much it says on stderr, and all that it has said."""

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

__all__ = ["Session", "begin", "current", "say"]

PROGRESS_EVERY_S = 10.0  # where stderr is no terminal


@dataclass(slots=True)
class Session:
    """One run of a command.

    as_json: the result is one JSON object. quiet: only errors go to stderr. verbose: stages, their times and decisions
    go there too. debug: and tracebacks. notices: every note so far, for the JSON object. stage: the work in progress.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    notices: list[str] = field(default_factory=list)
    stage: str = "starting"
    started_s: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

    @property
    def shows_progress(self) -> bool:
        """Return whether bars and timings are drawn: on a terminal."""
        return not self.quiet and sys.stderr.isatty()

    def notify(self, notice: str, *, even_if_quiet: bool = False) -> None:
        """Record a note, and say it once."""
        if notice in self.notices:
            return
        self.notices.append(notice)
        if even_if_quiet or not self.quiet:
            say(f"note: {notice}")


_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session:
    """Return the session of the command that runs; a new one outside of commands."""
    return _CURRENT.get() or Session()


def say(message: str) -> None:
    """Print one line on stderr."""
    print_text(f"aot: {one_line(message)}", to_stderr=True)


@contextmanager
def begin(session: Session) -> Iterator[None]:
    """Make `session` the current one; warnings of libraries become its notes, and the log is shown with `--verbose`.

    Raises:
        ConfigError: it is to be quiet and verbose.
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
    """Python's warnings; those that a library has for programmers go to the log."""

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
    """Log records as lines on stderr, each with the seconds since the command began."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.INFO)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{self._session.elapsed_s:.2f} s: {record.getMessage()}")


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
    """Every ten seconds a line on what is being done, where stderr is a file or a pipe: nobody sees bars there."""
    if session.quiet or sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def tell() -> None:
        while not over.wait(PROGRESS_EVERY_S):
            say(f"{session.elapsed_s:.0f} s: {session.stage}")

    threading.Thread(target=tell, name="aot-progress", daemon=True).start()
    try:
        yield
    finally:
        over.set()
