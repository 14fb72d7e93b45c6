"""Run all measured work in one thread that is not the main thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

__all__ = ["one_thread"]

T = TypeVar("T")


class _Caller(Protocol):
    def __call__(self, work: Callable[[], T]) -> T: ...


@contextmanager
def one_thread() -> Iterator[_Caller]:
    """Yield a function that calls its argument in another thread, the same for all calls.

    Answers are generated in a thread, as with the text streamers of transformers. On a busy CPU the
    main thread is much slower once other threads have used OpenMP, so that no arm may run in it.
    All arms share a thread, because cuDNN plans its attention once per thread.
    """
    asked: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
    done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def serve() -> None:
        while (work := asked.get()) is not None:
            try:
                done.put((work(), None))
            except BaseException as error:  # the caller's thread raises it
                done.put((None, error))

    def call(work: Callable[[], T]) -> T:
        asked.put(work)
        found: T
        found, error = done.get()
        if error is not None:
            raise error
        return found

    # A daemon, so that an interrupt need not wait for the end of a run.
    Thread(target=serve, name="aot-bench", daemon=True).start()
    try:
        yield call
    finally:
        asked.put(None)
