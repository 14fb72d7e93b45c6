"""Run a generator in a thread, so that decoding and encoding overlap."""

from __future__ import annotations

import queue
import threading
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["read_ahead"]

T = TypeVar("T")
_LOOK_S = 0.1  # interval at which a thread that waits for space in its queue checks `stop`


def read_ahead(
    items: Generator[T, None, None], depth: int = 1, give_up: Callable[[], None] = lambda: None
) -> Generator[T, None, None]:
    """Yield the elements of `items`; a thread computes up to `depth` of them in advance.

    If `items` raises an exception, it is raised here after the elements before it. When the
    returned generator ends or is closed, it calls `give_up` (to end a long wait of `items`), waits
    until the thread has finished its current element, and closes `items`.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop, at_work = threading.Event(), threading.Lock()

    def work() -> None:
        with at_work:
            if not stop.is_set():
                _fill(items, ready, stop)

    thread = threading.Thread(target=work, name="aot-ahead", daemon=True)
    try:
        thread.start()
        while True:
            item, end = ready.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        give_up()
        with at_work:  # a thread whose start was interrupted cannot be joined, and must not begin
            pass
        if thread.is_alive():
            thread.join()


def _fill(
    items: Generator[T, None, None], ready: queue.Queue[tuple[T | None, BaseException | None]], stop: threading.Event
) -> None:
    """Put every element of `items` into `ready`, then StopIteration or the exception of `items`.

    Return early if `stop` is set.
    """

    def put(item: T | None, end: BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put((item, end), timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    with closing(items):
        try:
            for item in items:
                if not put(item, None):
                    return
            put(None, StopIteration())
        except BaseException as error:  # the reading thread raises it
            put(None, error)
