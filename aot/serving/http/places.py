"""Let a fixed number of requests work at once, and a fixed number wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from aot.serving.http.refusals import ClientGoneError, RequestError
from aot.serving.http.work import Work

__all__ = ["Places", "Ticket"]


class Ticket:
    """The right of one request to wait and to work; `close` gives it back."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close: Callable[[], None] | None = close

    def close(self) -> None:
        """Give the ticket back; a second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()


class Places:
    """The places of a server, used from its event loop.

    Args:
        concurrent: how many requests work at once, each in a thread.
        queue: how many more may wait.

    Attributes:
        tickets: how many requests work, wait, or send their body.
        running: how many of them work.
        on_wait: receives the seconds that each request waited.
    """

    def __init__(self, concurrent: int, queue: int) -> None:
        self._most = concurrent + queue
        self.on_wait: Callable[[float], None] = lambda seconds: None
        self._free, self._pool = asyncio.Semaphore(concurrent), ThreadPoolExecutor(concurrent, "aot-request")
        self._tasks: set[asyncio.Task[None]] = set()
        self.tickets = self.running = 0

    def take(self) -> Ticket:
        """Return a ticket.

        Raises:
            RequestError: If all places and the queue are taken.
        """
        if self.tickets >= self._most:
            raise RequestError(429, "queue_full", f"{self._most} requests are running or waiting; try again later")
        self.tickets += 1
        return Ticket(self._give_back)

    def _give_back(self) -> None:
        self.tickets -= 1

    def start(self, work: Work, ticket: Ticket, left: Callable[[], Awaitable[None]]) -> None:
        """Run `work` in a thread when a place is free; close the ticket when it has ended.

        Args:
            work: the work, which is stopped when the client has left.
            ticket: the ticket of the request.
            left: returns when the client has left.
        """
        task = asyncio.create_task(self._run(work, ticket, left))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Work, ticket: Ticket, left: Callable[[], Awaitable[None]]) -> None:
        gone = asyncio.ensure_future(left())
        gone.add_done_callback(lambda _: work.stop())
        try:
            error = await self._error_of(work, gone)
        finally:
            gone.cancel()
            ticket.close()
        work.end(error)  # last, so that whoever has a reply finds the place free

    async def _error_of(self, work: Work, gone: asyncio.Future[None]) -> BaseException | None:
        """Wait for a place and run the work; return its error, or None."""
        start_s, waiting = perf_counter(), asyncio.create_task(self._free.acquire())
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return ClientGoneError()
        self.on_wait(perf_counter() - start_s)
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work.run)
        finally:
            self.running -= 1
            self._free.release()

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()
