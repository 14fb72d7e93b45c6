"""End a command cleanly at SIGTERM, which `kill`, `timeout` and service managers send.

SIGTERM acts like Ctrl-C. After the result is printed, Ctrl-C ends the process immediately.
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "terminable"]


class Terminated(KeyboardInterrupt):
    """Raised at SIGTERM, so that clean-up code runs; `except Exception` does not catch it."""


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
    """Raise a dropped KeyboardInterrupt again; return False if `unraisable` is another exception.

    Python prints and drops exceptions in finalizers and in callbacks from C. Without this function,
    a signal that arrives in such code would not end the command.
    """
    dropped, profile = unraisable.exc_type, sys.getprofile()
    if not issubclass(dropped, KeyboardInterrupt):
        return False

    def raise_outside(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename != __file__:  # within the hook it would be dropped again
            sys.setprofile(profile)
            raise dropped

    sys.setprofile(raise_outside)  # called at the next call or return of a function
    return True


def _restore_default() -> None:
    """Let Ctrl-C end the process while Python exits; otherwise Python would print tracebacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
