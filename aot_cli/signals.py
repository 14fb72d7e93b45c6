"""SIGTERM, by which `kill`, `timeout` and service managers end a program, ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "terminable"]


class Terminated(KeyboardInterrupt):
    """Like Ctrl-C this passes all that handles errors, and what removes temporary files does so."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` at the first SIGTERM, where nobody has decided what it does."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may decide
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two; the second must not end the clean-up
    raise Terminated
