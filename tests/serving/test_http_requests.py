"""What a request may say, read strictly; addresses of the public web; the cache of tokens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler, Request

import pytest
import torch

from aot.config.schema import GenerationConfig, build_config
from aot.errors import ConfigError, VideoError
from aot.models.base import Turn
from aot.models.families.llava import Llava
from aot.reports.retention import Compression
from aot.serving.http.chat_request import read_chat, read_video
from aot.serving.http.public_web import is_public, public_opener
from aot.serving.http.refusals import ClientGoneError, RequestError
from aot.serving.http.token_cache import TokenCache
from aot.video.download import pieces_of_address
from tests.support.compressed import compress_video
from tests.support.web_server import Reply, serve

VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}
OTHER = {"type": "video_url", "video_url": {"url": "https://example.org/b.mp4"}}


def user(*parts: Any) -> dict[str, Any]:
    found = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": found}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_a_request_with_everything() -> None:
    asked = read_chat(
        {
            "model": "m",
            "messages": [user("a", VIDEO, "b"), said("c"), {"role": "user", "content": "d"}, said("e"),
                         user(VIDEO, "f")],
            "max_tokens": 7, "temperature": 0.5, "seed": 3, "stream": True, "stream_options": {"include_usage": True},
            "n": 1, "top_p": 1.0, "stop": None, "tools": [], "user": "me",
        },
        GenerationConfig(max_new_tokens=9, min_new_tokens=8),
    )  # fmt: skip
    assert (asked.video, asked.question) == ("https://example.org/a.mp4", "f")
    assert asked.turns == (Turn("a\nb", "c"), Turn("d", "e"))
    assert asked.generation == GenerationConfig(max_new_tokens=7, min_new_tokens=7, temperature=0.5, seed=3)
    assert asked.streams and asked.includes_usage


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "must alternate"),
        ({"messages": [user(VIDEO, "a"), user("b")]}, "must alternate"),
        ({"messages": [user(VIDEO, "a"), said("b")]}, "must alternate"),
        ({"messages": [{"role": "system", "content": "x"}, user(VIDEO, "a")]}, "role must be user or assistant"),
        ({"messages": [user("a")]}, "must have the video"),
        ({"messages": [user("a"), said("b"), user(VIDEO, "c")]}, "must have the video"),
        ({"messages": [user(VIDEO, OTHER, "a")]}, "one video"),
        ({"messages": [user(VIDEO)]}, "must have a question"),
        ({"messages": [user(VIDEO, {"type": "image_url"})]}, "must be text or video_url"),
        ({"messages": [user({"type": "video_url", "video_url": 3}, "a")]}, "must be an object"),
        ({"messages": [user(VIDEO, "\ud800")]}, "must be text"),
        ({"messages": "x"}, "messages must be a list"),
        ({"messages": None}, "messages must be a list"),
        ({"model": 3}, "model must be text"),
        ({"n": 2}, "n is not supported"),
        ({"n": True}, "n is not supported"),
        ({"stop": ["x"]}, "stop is not supported"),
        ({"top_p": 0.5}, "top_p is not supported"),
        ({"tools": [{}]}, "tools is not supported"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"stream": "yes"}, "stream must be"),
        ({"ratioo": 1}, "'ratioo' is not known"),
    ],
)
def test_wrong_requests_are_refused(change: dict[str, Any], says: str) -> None:
    body = {"model": "m", "messages": [user(VIDEO, "a")], **change}
    with pytest.raises(RequestError, match=says) as raised:
        read_chat(body, GenerationConfig())
    assert raised.value.status == 400


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        read_chat({"model": "m", "messages": [user(VIDEO, "a")], "temperature": 1e-9}, GenerationConfig())


def test_the_video_of_a_compression() -> None:
    assert read_video({"video_url": {"url": "x"}}) == (None, "x")
    assert read_video({"model": "m", "video_url": "x"}) == ("m", "x")
    with pytest.raises(RequestError, match="video_url must be given"):
        read_video({"model": "m"})


# --- The public web


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff02::1", False), ("ff0e::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("64:ff9b::808:808", True),
    ],
)  # fmt: skip
def test_public_addresses(address: str, is_one: bool) -> None:
    assert is_public(address) is is_one


def fetched(address: str, accepts: Callable[[str], bool] = lambda each: each == "127.0.0.1") -> bytes:
    with public_opener(20, accepts) as opener:
        return b"".join(piece for piece, _ in pieces_of_address(address, opener))


def test_redirects_and_names_lead_to_public_hosts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo

    def looked_up(host: str, *more: Any, **others: Any) -> Any:
        return found({"good.test": "127.0.0.1", "bad.test": "127.0.0.2"}.get(host, host), *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    replies = {"/a": Reply(b"video"), "/file": Reply(status=302, headers={"Location": "file:///etc/passwd"})}
    with serve(replies) as web:
        port = web("").rpartition(":")[2]
        for name, host in (("literal", "127.0.0.2"), ("name", "bad.test"), ("good", "good.test")):
            replies[f"/{name}"] = Reply(status=302, headers={"Location": f"http://{host}:{port}/a"})
        assert fetched(web("/a")) == fetched(web("/good")) == fetched(f"http://good.test:{port}/a") == b"video"
        for address in (web("/literal"), web("/name"), f"http://bad.test:{port}/a"):
            with pytest.raises(VideoError, match="not a host of the public internet"):
                fetched(address)
        with pytest.raises(VideoError, match="cannot be fetched"):
            fetched(web("/file"))
        with pytest.raises(VideoError, match="not a host of the public internet"):
            fetched(web("/a"), is_public)


def test_https_stays_https() -> None:
    with public_opener(1) as opener:
        (handler,) = (each for each in opener.handlers if isinstance(each, HTTPRedirectHandler))  # type: ignore[attr-defined]
        asked = Request("https://a.test/")
        with pytest.raises(OSError, match="from https to http"):
            handler.redirect_request(asked, None, 302, "", {}, "http://b.test/")  # type: ignore[arg-type]
        assert handler.redirect_request(asked, None, 302, "", {}, "https://b.test/")  # type: ignore[arg-type]


def test_a_host_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        with public_opener(0.3, lambda each: True) as opener, pytest.raises(VideoError):
            next(pieces_of_address(f"http://127.0.0.1:{silent.getsockname()[1]}/", opener))
        assert time.monotonic() - start_s < 10


# --- The cache of tokens


@pytest.fixture(scope="module")
def kept(small_model: Llava, clip_file: Path) -> Compression:
    return compress_video(clip_file, small_model, build_config({"ratio": 0.2, "sampling": {"frames": 4}}))


def of_size(kept: Compression, megabytes: int) -> Compression:
    features = torch.zeros(len(kept.tokens.features), megabytes * 250_000 // len(kept.tokens.features))
    return Compression(replace(kept.tokens, features=features), kept.report)


def test_the_least_recently_used_tokens_leave_memory(kept: Compression) -> None:
    cache, made = TokenCache(3), list[str]()

    def look(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or of_size(kept, 1))[1]  # type: ignore[func-returns-value]

    assert [look(key) for key in "abacab"] == ["miss", "miss", "memory", "miss", "memory", "miss"]
    assert made == list("abcb") and cache.memory_bytes <= 3_000_000
    assert cache.get("large", lambda: of_size(kept, 4))[1] == "miss"
    assert cache.get("large", lambda: of_size(kept, 4))[1] == "miss"
    assert look("a") == "memory"


def test_tokens_on_disk_outlive_the_server_within_the_limit(kept: Compression, tmp_path: Path) -> None:
    for key in "abc":
        cache = TokenCache(0, tmp_path, 10)
        assert cache.get(key, lambda: kept)[1] == "miss"
        assert cache.get(key, lambda: kept)[1] == "disk"
        time.sleep(0.02)
    size = (tmp_path / "a.safetensors").stat().st_size
    assert cache.disk_bytes == 3 * size
    found, where = TokenCache(1, tmp_path, 10).get("a", lambda: kept)
    assert where == "disk" and torch.equal(found.tokens.features, kept.tokens.features)
    cache._disk_limit = 2 * size
    cache.get("d", lambda: kept)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "d"]
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert cache.get("a", lambda: kept)[1] == "miss"
    assert cache.get("a", lambda: kept)[1] == "disk"


def test_tokens_are_made_once_for_those_who_wait(kept: Compression) -> None:
    cache, begun, go, found = TokenCache(10), threading.Event(), threading.Event(), list[str]()

    def make() -> Compression:
        begun.set()
        assert go.wait(20)
        return kept

    def leave() -> None:
        raise ClientGoneError

    threads = [threading.Thread(target=lambda: found.append(cache.get("a", make)[1])) for _ in range(3)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    with pytest.raises(ClientGoneError):
        cache.get("a", make, leave)
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["memory", "memory", "miss"]


def test_a_failure_leaves_nothing(kept: Compression) -> None:
    cache = TokenCache(10)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert cache.get("a", lambda: kept)[1] == "miss"
    assert not cache._being_made
