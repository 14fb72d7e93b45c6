"""Do the work of a request in a thread, and hand its results to the event loop one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

from aot.serving.http.refusals import ClientGoneError

__all__ = ["Work"]

_END = object()


class Work:
    """The work of one request.

    Args:
        do: the work; it gets this object, for `put` and `check`.
    """

    def __init__(self, do: Callable[[Work], None]) -> None:
        self._do, self._stopped = do, threading.Event()
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[object] = asyncio.Queue()

    def run(self) -> BaseException | None:
        """Do the work in the current thread; return its error, or None."""
        try:
            self.check()
            self._do(self)
        except BaseException as error:  # raised where the results are awaited
            return error
        return None

    def put(self, result: object) -> None:
        """Hand a result over, from the thread of the work.

        Raises:
            ClientGoneError: If the work was stopped.
        """
        self.check()
        self._loop.call_soon_threadsafe(self._results.put_nowait, result)

    def check(self) -> None:
        """Return if the work is still wanted.

        Raises:
            ClientGoneError: If it was stopped.
        """
        if self._stopped.is_set():
            raise ClientGoneError

    def stop(self) -> None:
        """End the work at its next `check` or `put`."""
        self._stopped.set()

    def end(self, error: BaseException | None) -> None:
        """End the results, if there is an `error` with it."""
        self._results.put_nowait(_END if error is None else error)

    async def results(self) -> AsyncIterator[object]:
        """Yield the results as they come.

        Raises:
            BaseException: The error of the work.
        """
        while (result := await self._results.get()) is not _END:
            if isinstance(result, BaseException):
                raise result
            yield result
