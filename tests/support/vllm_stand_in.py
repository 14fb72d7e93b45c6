"""A server of the test that answers as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["StandIn", "chunk", "standing_in"]

MODELS = {"data": [{"id": "lm"}]}


class StandIn(ThreadingHTTPServer):
    """Lists models, and replies to every post in the same way; keeps what it got."""

    def __init__(self, events: list[Any], status: int, models: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events, self.status, self.models = events, status, models
        self.got: list[tuple[str, dict[str, Any], str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._reply(200, json.dumps(self.server.models))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, body, self.headers["Authorization"]))
        if self.server.status == 200:
            lines = (event if isinstance(event, str) else json.dumps(event) for event in self.server.events)
            self._reply(200, "".join(f"data: {line}\n\n" for line in lines))
        else:
            self._reply(self.server.status, json.dumps(self.server.events[0]))

    def _reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def standing_in(*events: Any, status: int = 200, models: Any = MODELS) -> Iterator[StandIn]:
    with StandIn(list(events), status, models) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def chunk(*ids: int) -> dict[str, Any]:
    return {"choices": [{"text": "", "token_ids": list(ids)}]}
