"""Serve replies of a test from a local web server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """The reply of an address.

    Attributes:
        body: the content.
        status: the HTTP status.
        kind: the Content-Type.
        announced: the Content-Length if not negative; -1 sends the body's, None sends none.
        headers: further headers.
    """

    body: bytes = b""
    status: int = 200
    kind: str = "video/mp4"
    announced: int | None = -1
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def serve(replies: dict[str, Reply]) -> Iterator[Callable[[str], str]]:
    """Yield a function from a path to its address; paths without a reply are 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = replies.get(self.path, Reply(b"<html>no such file</html>", 404, "text/html"))
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            if reply.announced is not None:
                self.send_header("Content-Length", str(len(reply.body) if reply.announced < 0 else reply.announced))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
        finally:
            server.shutdown()
