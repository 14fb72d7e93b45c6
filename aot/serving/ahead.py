"""Open videos ahead: decode the next one while the caller works on a video."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from aot.errors import VideoError
from aot.pipeline.run import Pipeline
from aot.pipeline.stream import begun_video
from aot.runtime.memory import explained_memory
from aot.storage.tokens_file import is_tokens_file

if TYPE_CHECKING:
    from aot.video import OpenVideo

__all__ = ["Ahead", "Opened"]


class HasVideo(Protocol):
    """Work on one video."""

    @property
    def video(self) -> str:
        """Return the file, or the http or https address, of the video."""


J = TypeVar("J", bound=HasVideo)


@dataclass(frozen=True, slots=True)
class Opened:
    """A video that has begun to be decoded; `close` closes it."""

    video: OpenVideo
    stack: ExitStack

    def close(self) -> None:
        """Close the video."""
        self.stack.close()


class Ahead(Generic[J]):
    """Open the next video, and decode its first frames, while the caller works on a video."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aot-ahead")
        self._waiting: deque[tuple[J, Future[Opened]]] = deque()
        self._closed = threading.Event()

    def videos(self, jobs: Iterable[J]) -> Iterator[tuple[J, Future[Opened]]]:
        """Yield each job with its open video, which the caller must close, or its error."""
        for job in jobs:
            self._waiting.append((job, self._pool.submit(self._open, job)))
            if len(self._waiting) > 1:
                yield self._waiting.popleft()
        while self._waiting:
            yield self._waiting.popleft()

    def close(self) -> None:
        """End a download, wait for the thread, and close the videos that were not wanted."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
        for _, opened in self._waiting:
            with suppress(Exception):
                if not opened.cancelled():
                    opened.result().close()

    def _open(self, job: J) -> Opened:
        if is_tokens_file(job.video):
            raise VideoError(f"{job.video} is already a tokens file; give a video")
        with ExitStack() as stack:
            model, sampling = self._pipeline.model, self._pipeline.config.sampling
            with explained_memory():
                video = stack.enter_context(begun_video(job.video, model, sampling, self._on_bytes))
            return Opened(video, stack.pop_all())

    def _on_bytes(self, done: int, total: int) -> None:
        if self._closed.is_set():
            raise VideoError("the download was interrupted; repeat the command")
