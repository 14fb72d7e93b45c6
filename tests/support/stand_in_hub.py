"""Serve folders on 127.0.0.1 in the way of the Hugging Face hub, its API and its files."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

__all__ = ["COMMIT", "SOME_MODEL", "StandInHub", "black_hole", "closed_port", "go_online", "stand_in_hub"]

SOME_MODEL = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
_MODEL = re.compile(r"/api/models/([^/]+/[^/?]+)(?:/revision/[^/?]+)?(?:\?.*)?")


@dataclass
class StandInHub:
    """The state of a local hub.

    Attributes:
        repositories: folders by name.
        requests: the request lines in order of arrival.
        tokens: users' tokens that came with the requests.
        has_api: whether the API answers, which reports sizes.
        breaks_after: cut the connection after so many bytes of a file, once.
        status: the status of every answer, if not the right one.
        endpoint: the address.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    has_api: bool = True
    breaks_after: int | None = None
    status: int | None = None
    endpoint: str = ""

    def served(self, suffix: str) -> list[str]:
        """Return the GET requests that contain `suffix`."""
        return [line for line in self.requests if line.startswith("GET") and suffix in line]


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        wanted = self.headers.get("Range", "")
        self.hub.requests.append(f"{self.command} {self.path} {wanted}".strip())
        if token := self.headers.get("Authorization"):
            self.hub.tokens.append(token)
        if self.hub.status is not None:
            self._refuse(self.hub.status, "")
        elif asked := _MODEL.fullmatch(self.path):
            self._tell_of(asked[1])
        elif asked := _FILE.fullmatch(self.path):
            self._give(asked[1], asked[2], wanted, with_body=with_body)
        else:
            self._refuse(404, "")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def _tell_of(self, name: str) -> None:
        folder = self.hub.repositories.get(name)
        if not self.hub.has_api or folder is None:
            self._refuse(404, "RepoNotFound" if self.hub.has_api else "")
            return
        files = [path for path in folder.rglob("*") if path.is_file()]
        siblings = [{"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _give(self, name: str, filename: str, wanted: str, *, with_body: bool) -> None:
        folder = self.hub.repositories.get(name)
        if folder is None or not (folder / filename).is_file():
            self._refuse(404, "RepoNotFound" if folder is None else "EntryNotFound")
            return
        content = (folder / filename).read_bytes()
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        limit, self.hub.breaks_after = self.hub.breaks_after, None
        stop = len(content)
        if limit is not None and stop > limit:
            stop = limit
        else:
            self.hub.breaks_after = limit
        self.wfile.write(content[start:stop])


@contextmanager
def stand_in_hub(**repositories: Path) -> Iterator[StandInHub]:
    """Serve a hub on a free port within the context."""
    hub = StandInHub(dict(repositories))
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


@contextmanager
def black_hole() -> Iterator[str]:
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def closed_port() -> str:
    """Return an address on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def go_online(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Use the hub at `endpoint` and the cache folder `cache` during one test."""
    constants = "huggingface_hub.constants"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
