"""Run a server of `aot serve` on the loopback, in a thread of the test."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import uvicorn

from aot.config.schema import GenerationConfig
from aot.pipeline.replies import Reply
from aot.pipeline.run import Pipeline
from aot.serving.http.app import Door, make_app
from aot.serving.http.chat_request import ChatRequest
from aot.serving.http.metrics import Metrics
from aot.serving.http.places import Places
from aot.serving.http.server import ServerOptions, listening, make_server
from aot.serving.http.service import Answered
from aot.serving.http.work import Work


@dataclass(frozen=True)
class Running:
    """A running server."""

    url: str
    places: Places

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def metric(self, name: str) -> float:
        """Return the value of a metric, named with its labels; 0 if there is none."""
        text = urlopen(f"{self.url}/metrics").read().decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def running(pipeline: Pipeline, **options: Any) -> Iterator[Running]:
    """Serve a model; `options` are those of `ServerOptions`."""
    app, places = make_server(pipeline, ServerOptions("tiny", **options))
    with _listening(app, places) as server:
        yield server


@contextmanager
def running_slowly(
    service: Slow, concurrent: int, queue: int, *keys: str, hosts: Any = (), body_mb: int = 1
) -> Iterator[Running]:
    """Serve answers that last until the test lets them end."""
    places = Places(concurrent, queue)
    metrics = Metrics(places)
    door: Any = Door(service, metrics, places, "tiny", keys, hosts, body_mb)  # type: ignore[arg-type]
    with _listening(make_app(door, metrics), places) as server:
        yield server


@contextmanager
def _listening(app: Any, places: Places) -> Iterator[Running]:
    at = listening("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, log_level="error")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    until(lambda: server.started)
    try:
        yield Running(f"http://127.0.0.1:{at.getsockname()[1]}", places)
    finally:
        server.should_exit = True
        thread.join()
        places.close()
        at.close()


class Slow:
    """Stand in for a `Service` whose answers go on until `end` is set."""

    generation = GenerationConfig()

    def __init__(self) -> None:
        self.end = threading.Event()

    def answer(self, asked: ChatRequest, work: Work) -> None:
        work.put("words")
        while not self.end.wait(0.01):
            work.check()
        reply = Reply("words", 10, 1, (5,), 1.0, 2.0, ())
        work.put(Answered(reply, "stop", 50, 5))


def until(holds: Any, seconds: float = 30) -> None:
    """Wait until `holds()` is true."""
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s, "it never came to that"
        time.sleep(0.01)
