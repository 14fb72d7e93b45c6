"""Count what the server does, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aot.serving.http.places import Places

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        places: the places, whose numbers of requests are shown.
    """

    def __init__(self, places: Places) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        to: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("aot_requests", "Replies by path and status.", ["path", "status"], **to)
        self._stage = Histogram(
            "aot_stage_seconds",
            "Seconds per stage: queue, fetch, decode, encode, compress, first_token, answer.",
            ["stage"],
            buckets=_SECONDS,
            **to,
        )
        self._visual = Counter(
            "aot_visual_tokens", "Visual tokens of answered questions, before and after compression.", ["when"], **to
        )
        self._language = Counter("aot_language_tokens", "Tokens of prompts and answers.", ["kind"], **to)
        self._cache = Counter(
            "aot_token_cache_requests",
            "Where the tokens of a video were found; miss: it was encoded.",
            ["result"],
            **to,
        )
        self._cache_bytes = Gauge("aot_token_cache_bytes", "Size of the token cache.", ["where"], **to)
        running = Gauge("aot_requests_running", "Requests that are worked on.", **to)
        running.set_function(lambda: places.running)
        queued = Gauge("aot_requests_queued", "Requests that wait for their turn.", **to)
        queued.set_function(lambda: places.tickets - places.running)
        places.on_wait = lambda seconds: self.stage("queue", seconds)
        for result in ("memory", "disk", "miss"):
            self._cache.labels(result)

    def text(self) -> tuple[bytes, str]:
        """Return all metrics and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def reply(self, path: str, status: int) -> None:
        """Count a reply; `path` is one of the server's own."""
        self._requests.labels(path, str(status)).inc()

    def stage(self, name: str, seconds: float) -> None:
        """Record how long a stage took."""
        self._stage.labels(name).observe(seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long the context takes, unless it raises."""
        start_s = perf_counter()
        yield
        self.stage(name, perf_counter() - start_s)

    def visual_tokens(self, before: int, after: int) -> None:
        """Count the visual tokens of an answer."""
        self._visual.labels("before").inc(before)
        self._visual.labels("after").inc(after)

    def language_tokens(self, prompt: int, output: int) -> None:
        """Count the tokens of a prompt, kept visual tokens included, and of its answer."""
        self._language.labels("prompt").inc(prompt)
        self._language.labels("output").inc(output)

    def found(self, result: str) -> None:
        """Count a look into the token cache: memory, disk or miss."""
        self._cache.labels(result).inc()

    def cache_bytes(self, where: str, size: int) -> None:
        """Set the size of the cache in memory or on disk."""
        self._cache_bytes.labels(where).set(size)
