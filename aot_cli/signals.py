"""End a command cleanly at SIGTERM, which `kill`, `timeout` and service managers send.

SIGTERM acts like Ctrl-C. After the result is printed, Ctrl-C ends the process immediately.
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
    """Raised at SIGTERM; `except Exception` does not catch it, and temporary files are removed."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` at the first SIGTERM, unless SIGTERM already has a handler."""
    is_main = threading.current_thread() is threading.main_thread()  # other threads cannot set handlers
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
        atexit.unregister(_restore_default)
        atexit.register(_restore_default)  # registered last, so it runs first


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two; the second must not interrupt the clean-up
    raise Terminated


def _raise_again(unraisable: sys.UnraisableHookArgs) -> bool:
    """Send a dropped SIGINT or SIGTERM again; return False if `unraisable` is another exception.

    Python prints and drops exceptions in finalizers and in callbacks from C. Without this, a signal
    that arrives there would not end the command.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        return False
    number = signal.SIGINT
    if issubclass(unraisable.exc_type, Terminated):
        number = signal.SIGTERM
        signal.signal(number, _terminate)
    threading.Timer(_AGAIN_AFTER_S, _send, (number,)).start()  # an exception here would be dropped too
    return True


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # interrupts a system call
    else:
        _thread.interrupt_main(number)


def _restore_default() -> None:
    """Let Ctrl-C end the process while Python exits; otherwise Python would print tracebacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
