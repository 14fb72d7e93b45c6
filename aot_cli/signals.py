"""SIGTERM, by which `kill`, `timeout` and service managers end a program, ends a command as Ctrl-C does; and Ctrl-C
after the result is out just ends the process.
"""

from __future__ import annotations

import atexit
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
        atexit.unregister(_end_at_once)
        atexit.register(_end_at_once)  # the last one registered is the first to run


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two; the second must not end the clean-up
    raise Terminated


def _end_at_once() -> None:
    """What libraries do while Python ends takes a moment, in which Ctrl-C would print their tracebacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
