"""Places, queue, keys and bodies of the server, with answers that last as long as a test wants."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest

from tests.support.http_server import Running, Slow, running_slowly, until

URL = "data:video/mp4;base64,AAAA"
CONTENT = [{"type": "text", "text": "what?"}, {"type": "video_url", "video_url": {"url": URL}}]
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": CONTENT}]}


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.end.set()


def client_of(server: Running, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def begin(server: Running) -> Any:
    """Return a stream whose answer has begun."""
    stream = client_of(server).chat.completions.create(**BODY, stream=True)
    next(iter(stream))
    return stream


def open_socket(server: Running, head: str, body: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    made.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return made


def post(server: Running, body: bytes, **headers: str) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    try:
        with urlopen(Request(f"{server.url}/v1/chat/completions", body, headers)) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


# --- Places


def test_the_request_beyond_the_queue_is_refused_and_others_finish(slow: Slow) -> None:
    data = json.dumps(BODY).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close"
    with running_slowly(slow, 2, 3) as server:
        waiting = [open_socket(server, head, data) for _ in range(5)]
        until(lambda: server.places.tickets == 5 and server.places.running == 2)
        assert server.metric("aot_requests_running") == 2 and server.metric("aot_requests_queued") == 3
        with pytest.raises(openai.RateLimitError, match="5 requests are running or waiting"):
            client_of(server).chat.completions.create(**BODY)
        slow.end.set()
        for each in waiting:
            assert b"200 OK" in b"".join(iter(lambda each=each: each.recv(2**16), b""))  # type: ignore[misc]
            each.close()
        until(lambda: server.places.tickets == 0)
        assert server.metric('aot_stage_seconds_count{stage="queue"}') == 5


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_place(slow: Slow, streams: bool) -> None:
    with running_slowly(slow, 1, 0) as server:
        if streams:
            begin(server).close()
        else:
            data = json.dumps(BODY).encode()
            made = open_socket(server, f"Content-Type: application/json\r\nContent-Length: {len(data)}", data)
            until(lambda: server.places.running == 1)
            made.close()
        until(lambda: server.places.tickets == 0)
        begin(server).close()


def test_a_client_that_leaves_the_queue_frees_its_ticket(slow: Slow) -> None:
    data = json.dumps(BODY).encode()
    with running_slowly(slow, 1, 1) as server:
        first = begin(server)
        second = open_socket(server, f"Content-Type: application/json\r\nContent-Length: {len(data)}", data)
        until(lambda: server.places.tickets == 2)
        second.close()
        until(lambda: server.places.tickets == 1)
        slow.end.set()
        assert [chunk.choices[0].finish_reason for chunk in first][-1] == "stop"
    assert (server.places.tickets, server.places.running) == (0, 0)


def test_a_stop_finishes_what_runs(slow: Slow) -> None:
    with running_slowly(slow, 1, 1) as server:
        stream = begin(server)
        slow.end.set()
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"


# --- Keys


def test_keys_are_wanted_everywhere_but_for_health(slow: Slow) -> None:
    slow.end.set()
    with running_slowly(slow, 1, 1, "one", "two") as server:
        for key in ("one", "two"):
            assert [model.id for model in client_of(server, key).models.list()] == ["tiny"]
        for wrong in ("", "on", "One", "one two", "Basic one", "é"):
            status, found = post(server, json.dumps(BODY).encode(), Authorization=f"Bearer {wrong}")
            assert (status, found["error"]["code"]) == (401, "invalid_api_key"), wrong
        assert post(server, b"", Authorization="one")[0] == 401
        for path, status in (("/metrics", 401), ("/health", 200), ("/v1/models", 401)):
            try:
                assert urlopen(server.url + path).status == status
            except HTTPError as error:
                assert error.code == status


def test_a_page_that_gives_its_name_this_address_cannot_ask(slow: Slow) -> None:
    slow.end.set()
    with running_slowly(slow, 1, 1, hosts=("localhost", "127.0.0.1", "::1")) as server:
        data = json.dumps(BODY).encode()
        for name, status in (("127.0.0.1:80", 200), ("localhost", 200), ("[::1]:80", 200), ("page.test", 403)):
            assert post(server, data, Host=name)[0] == status, name


# --- Bodies


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 10000000000", b""),
        ("Content-Length: 10000000000", b"x" * 10**5),
        ("Content-Length: " + "9" * 4000, b""),
    ],
)
def test_a_long_body_is_refused_before_it_is_read(slow: Slow, head: str, body: bytes) -> None:
    with (
        running_slowly(slow, 1, 1) as server,
        open_socket(server, f"Content-Type: application/json\r\n{head}", body) as made,
    ):
        assert b" 413 " in made.recv(2**16) or len(head) > 1000
        until(lambda: _is_closed(made))
        assert server.places.tickets == 0


def test_a_body_without_end_is_refused(slow: Slow) -> None:
    head = "Content-Type: application/json\r\nTransfer-Encoding: chunked"
    with running_slowly(slow, 1, 1) as server, open_socket(server, head) as made:
        sent = 0
        try:
            while sent < 50 * 10**6:
                made.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
                sent += 2**16
        except OSError:
            pass
        assert sent < 20 * 10**6
        until(lambda: server.places.tickets == 0)
        assert server.metric('aot_requests_total{path="/v1/chat/completions",status="413"}') == 1


def test_a_body_that_never_comes_gives_its_place_back(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aot.serving.http.bodies._WHOLE_BODY_S", 0.2)
    head = "Content-Type: application/json\r\nContent-Length: 100"
    with running_slowly(slow, 1, 0) as server, open_socket(server, head, b"{") as made:
        assert b" 408 " in made.recv(2**16)
        assert server.places.tickets == 0


def _is_closed(made: socket.socket) -> bool:
    try:
        return made.recv(2**16) == b""
    except OSError:
        return True


NESTED = b'{"model": "tiny", "messages": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "the body must be an object"),
        (b"null", "the body must be an object"),
        (NESTED, "nested"),
        (b'{"model": "tiny", "model": "tiny"}', "a key twice"),
        (b"[" + b"0," * 10**6 + b"0]", "too large|too many|larger than"),
    ],
)
def test_wrong_json_is_refused(slow: Slow, body: bytes, says: str) -> None:
    with running_slowly(slow, 1, 0, body_mb=4) as server:
        status, found = post(server, body)
        assert status == 400 and found["error"]["type"] == "invalid_request_error"
        assert re.search(says, found["error"]["message"]), found
        assert server.places.tickets == 0


def test_other_content_types_are_refused(slow: Slow) -> None:
    """Else any web page that somebody on this machine visits could ask."""
    with running_slowly(slow, 1, 0) as server:
        assert post(server, json.dumps(BODY).encode(), Content_Type="text/plain")[0] == 415


def test_other_models_and_paths_are_not_found(slow: Slow) -> None:
    with running_slowly(slow, 1, 0) as server:
        with pytest.raises(openai.NotFoundError, match="has no model 'other'; it has tiny"):
            client_of(server).chat.completions.create(**{**BODY, "model": "other"})
        with pytest.raises(openai.NotFoundError, match="this server has /v1/chat/completions"):
            client_of(server).embeddings.create(model="tiny", input="x")
        for path in ("/docs", "/openapi.json", "/v1/../etc/passwd"):
            with pytest.raises(HTTPError):
                urlopen(server.url + path)
