"""SIGTERM, by which `kill`, `timeout` and service managers end a program, ends a command as Ctrl-C does; and Ctrl-C
after the result is out just ends the process.
"""

from __future__ import annotations

import _thread
import atexit
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "terminable"]


_AGAIN_AFTER_S = 0.001


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
    ignored = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: _raise_again(unraisable) or ignored(unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = ignored
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        atexit.unregister(_end_at_once)
        atexit.register(_end_at_once)  # the last one registered is the first to run


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two; the second must not end the clean-up
    raise Terminated


def _raise_again(unraisable: sys.UnraisableHookArgs) -> bool:
    """Send the signal once more if Python has dropped its exception, and return whether it has.

    A finalizer or a callback from C cannot raise: Python prints what it raises and goes on, so that a signal which
    arrives in one would not end the command.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        return False
    number = signal.SIGINT
    if issubclass(unraisable.exc_type, Terminated):
        number = signal.SIGTERM
        signal.signal(number, _terminate)
    threading.Timer(_AGAIN_AFTER_S, _send, (number,)).start()  # raised here it would be dropped as well
    return True


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # wakes it from a system call
    else:
        _thread.interrupt_main(number)


def _end_at_once() -> None:
    """What libraries do while Python ends takes a moment, in which Ctrl-C would print their tracebacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
