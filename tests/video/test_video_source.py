from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import av.logging
import pytest

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video import decode, open_source, probe, source
from aot.video.source import open_container
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke


class FakeInput:
    def __init__(self, data: bytes, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self.buffer.isatty = lambda: terminal  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.mp4", "does not exist: check"),
        ("rtsp://example.org/clip.mp4", "is not an http or https address: download"),
        (".", "is a directory: name one"),
    ],
)
def test_says_why_a_path_cannot_be_read(name: str, words: str) -> None:
    with pytest.raises(VideoError, match=words), open_source(name):
        pass


def test_empty_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(VideoError, match=r"empty.mp4 is empty"), open_source(empty):
        pass


@pytest.mark.parametrize("name", ["p%d.jpg", "p%02d.jpg", "p*.jpg"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    for number in range(1, 4):
        for other in (f"p{number}.jpg", f"p0{number}.jpg"):
            make.write_photo(tmp_path / other, make.draw(number), 1)
    path = make.write_photo(tmp_path / name, make.draw(99), 1)
    assert make.read_all(decode(path, SamplingConfig(frames=9)).pixels.numpy()) == [99]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile part.ts\n"),
        ("list.txt", "ffconcat version 1.0\nfile part.ts\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:0.2,\npart.ts\n#EXT-X-ENDLIST\n"),
        ("notes.txt", "what was said on the day the film was made\n" * 50),
    ],
)
def test_no_other_file_is_opened(name: str, text: str, tmp_path: Path) -> None:
    make.write(tmp_path / "part.ts", 5)
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(VideoError, match="is not a video but a playlist, a text or another kind of file: name the"):
        probe(path)


def test_standard_input_is_copied_and_removed(clip: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", FakeInput(clip.read_bytes()))
    with open_source("-") as copy:
        assert copy.read_bytes() == clip.read_bytes()
        assert temporary in copy.parents
    assert list(temporary.iterdir()) == []


def test_standard_input_is_removed_after_an_interrupt(
    clip: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", FakeInput(clip.read_bytes()))
    with pytest.raises(KeyboardInterrupt), open_source("-"):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("terminal", "words"), [(False, "standard input is empty"), (True, "nothing is piped")])
def test_standard_input_without_data(terminal: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", FakeInput(b"", terminal))
    with pytest.raises(VideoError, match=words), open_source("-"):
        pass


def test_standard_input_can_be_probed(clip: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", FakeInput(clip.read_bytes()))
    info = probe("-").info
    assert (info.path, info.frames) == ("standard input", 90)
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_explained(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdin", FakeInput(clip.read_bytes()))
    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full() if mode == "wb" else real_open(path, mode))
    with pytest.raises(VideoError, match="No space left on device"), open_source("-"):
        pass


def test_standard_input_has_a_limit(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", FakeInput(b"0" * 1_000_001))
    with pytest.raises(VideoError, match=r"standard input is larger than 1 MB, .* --max-input-mb"), open_source("-", 1):
        pass
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device without end")
def test_a_device_without_end_is_limited_too(temporary: Path) -> None:
    with (
        pytest.raises(VideoError, match=r"/dev/zero is larger than 1 MB, .* --max-input-mb"),
        open_source("/dev/zero", 1),
    ):
        pass
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_a_pipe_is_copied(temporary: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"data")
    os.close(writer)
    with open_source(f"/dev/fd/{reader}") as copy:
        assert copy.read_bytes() == b"data"
    os.close(reader)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("level", [None, av.logging.ERROR])
def test_the_log_level_is_put_back(clip: Path, level: int | None) -> None:
    before = av.logging.get_level()
    av.logging.set_level(level)
    try:
        probe(clip)
        assert av.logging.get_level() == level
    finally:
        av.logging.set_level(before)


def test_decoders_come_to_rest_while_ffmpeg_is_silent(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that logs while PyAV frees its decoder waits for Python's lock for ever."""
    levels: list[int | None] = []
    container = MagicMock()
    container.streams.video = [SimpleNamespace(codec_context=MagicMock()), SimpleNamespace(codec_context=None)]
    container.streams.video[0].codec_context.flush_buffers = lambda: levels.append(av.logging.get_level())
    monkeypatch.setattr(source, "open_input", lambda *_: container)
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with pytest.raises(KeyboardInterrupt), open_container(clip, "clip"):
            raise KeyboardInterrupt
        assert levels == [None]
    finally:
        av.logging.set_level(before)


def test_the_log_level_is_put_back_by_the_last_reader(clip: Path) -> None:
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        first, second = (ExitStack(), ExitStack())
        with second:
            first.enter_context(open_container(clip, "clip"))
            second.enter_context(open_container(clip, "clip"))
            first.close()
            assert av.logging.get_level() is None
        assert av.logging.get_level() == av.logging.ERROR
    finally:
        av.logging.set_level(before)


def test_ffmpeg_and_decord_stay_silent_and_torch_unimported(damaged: Path) -> None:
    script = f"""
import sys
import aot.video
assert "torch" not in sys.modules, "importing aot.video imports torch"
import av.logging
av.logging.set_level(av.logging.VERBOSE)
from aot.config.schema import SamplingConfig
from aot.errors import VideoError
aot.video.probe({str(damaged)!r})
assert "torch" not in sys.modules, "probing imports torch"
aot.video.decode({str(damaged)!r}, SamplingConfig())
try:
    aot.video.decode({str(damaged)!r}, SamplingConfig(decoder="decord"))
except VideoError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
