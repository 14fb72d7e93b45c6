"""Videos at an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video import decode, open_file, open_source, probe
from tests.support.web_server import Reply, serve

PAGE = b"<!doctype html><html><body>Watch this</body></html>"


@pytest.fixture
def replies(clip: Path) -> dict[str, Reply]:
    data = clip.read_bytes()
    return {
        "/clip.mp4": Reply(data),
        "/my%20clip%C3%A9.mp4?key=a%2Fb": Reply(data, kind="application/octet-stream"),
        "/moved": Reply(status=302, headers={"Location": "/clip.mp4"}),
        "/around": Reply(status=302, headers={"Location": "/around"}),
        "/to-a-file": Reply(status=302, headers={"Location": "file:///etc/passwd"}),
        "/unannounced": Reply(data, announced=None),
        "/cut": Reply(data[: len(data) // 2], announced=len(data)),
        "/page": Reply(PAGE, kind="text/html; charset=utf-8"),
        "/disguised": Reply(PAGE, kind="video/mp4"),
        "/playlist.m3u8": Reply(b"#EXTM3U\n#EXT-X-VERSION:3\n", kind="application/octet-stream"),
        "/forbidden": Reply(b"no", 403, "text/plain"),
        "/empty": Reply(),
        "/big": Reply(b"\0" * 1_100_000),
        "/big-unannounced": Reply(b"\0" * 1_100_000, announced=None),
        "/huge": Reply(b"\0" * 100, announced=5_000_000_000),
    }


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, replies: dict[str, Reply]) -> Iterator[Callable[[str], str]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(replies) as address_of:
        yield address_of


@pytest.mark.parametrize("path", ["/clip.mp4", "/my clip\u00e9.mp4?key=a%2Fb#t=1", "/moved", "/unannounced"])
def test_a_video_is_fetched_and_removed(path: str, clip: Path, address: Callable[[str], str], temporary: Path) -> None:
    with open_source(address(path)) as copy:
        assert copy.read_bytes() == clip.read_bytes()
        assert temporary in copy.parents
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("temporary")
def test_a_fetched_video_is_named_by_its_address(clip: Path, address: Callable[[str], str]) -> None:
    index = probe(address("/clip.mp4"))
    assert index.info.path == address("/clip.mp4")
    assert index.pts == probe(clip).pts
    frames = decode(address("/clip.mp4"), SamplingConfig(frames=4))
    assert (frames.pixels == decode(clip, SamplingConfig(frames=4)).pixels).all()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere.mp4", r"cannot be fetched \(404 Not Found\): check the address"),
        ("/forbidden", r"cannot be fetched \(403 Forbidden\): check the address"),
        ("/around", "cannot be fetched .*infinite loop"),
        ("/to-a-file", "cannot be fetched .*file"),
        ("/page", "is a web page or a playlist, not a video file: fetch the video with yt-dlp"),
        ("/disguised", "is a web page or a playlist, not a video file: fetch the video with yt-dlp"),
        ("/playlist.m3u8", "yt-dlp"),
        ("/cut", r"ended after [\d,]+ of [\d,]+ bytes: try again"),
        ("/empty", "is empty"),
        ("/big", r"is larger than 1 MB, the limit for copies: raise --max-input-mb"),
        ("/big-unannounced", r"is larger than 1 MB, the limit for copies: raise --max-input-mb"),
        ("/huge", "is larger than 1 MB"),
    ],
)
def test_says_why_nothing_was_fetched(path: str, words: str, address: Callable[[str], str], temporary: Path) -> None:
    with pytest.raises(VideoError, match=words) as raised, open_file(address(path), SamplingConfig(max_input_mb=1)):
        pass
    assert address(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize(
    "unreachable", ["http://127.0.0.1:9/clip.mp4", "http://", "http://a b/clip.mp4", "http://127.0.0.1:port/x"]
)
def test_a_host_that_cannot_be_reached(unreachable: str) -> None:
    with (
        pytest.raises(VideoError, match=r"cannot be fetched .*: check the address and the connection"),
        open_source(unreachable),
    ):
        pass


def test_what_is_not_a_video_is_said_as_for_a_file(address: Callable[[str], str], temporary: Path) -> None:
    with pytest.raises(VideoError, match=r"/big is not a video"):
        probe(address("/big"))
    assert list(temporary.iterdir()) == []


def test_progress_and_an_interrupt(clip: Path, address: Callable[[str], str], temporary: Path) -> None:
    size = clip.stat().st_size
    seen: list[tuple[int, int]] = []
    with open_source(address("/clip.mp4"), on_bytes=lambda done, whole: seen.append((done, whole))):
        pass
    assert seen[-1] == (size, size)

    def interrupt(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_source(address("/clip.mp4"), on_bytes=interrupt):
        pass
    assert list(temporary.iterdir()) == []


def test_other_kinds_of_address_are_not_fetched() -> None:
    with (
        pytest.raises(VideoError, match="is not an http or https address: download it first"),
        open_source("ftp://h/c.mp4"),
    ):
        pass
