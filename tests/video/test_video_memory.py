"""What a video may take: threads by the size of its pictures, and a few bytes for each of its frames."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video import decode, probe, pyav
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke


def stream_of(width: int, height: int, codec: str = "hevc") -> Any:
    context = SimpleNamespace(width=width, height=height, options={}, thread_count=None)
    context.codec = SimpleNamespace(canonical_name=codec)
    return SimpleNamespace(codec_context=context, thread_type=None)


@pytest.mark.parametrize(
    ("size", "kind", "most_threads"),
    [
        ((160, 96), "AUTO", None),
        ((1920, 1080), "AUTO", None),
        ((3840, 2160), "AUTO", 10),
        ((7680, 4320), "AUTO", 2),
        ((8192, 8192), "SLICE", None),
    ],
)
def test_fewer_large_pictures_are_decoded_at_once(
    size: tuple[int, int], kind: str, most_threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav.os, "cpu_count", lambda: 64)
    stream = stream_of(*size)
    pyav.prepare_decoder(stream, lanes=1)
    assert (stream.thread_type, stream.codec_context.thread_count) == (kind, most_threads)


@pytest.mark.parametrize(
    ("cores", "size", "decoders"),
    [(2, (160, 96), 1), (16, (160, 96), 4), (64, (1920, 1080), 3), (64, (3840, 2160), 1), (64, (8192, 8192), 1)],
)
def test_decoders_side_by_side_hold_no_more_pictures_than_fit(
    cores: int, size: tuple[int, int], decoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav.os, "cpu_count", lambda: cores)
    lanes = pyav.side_by_side(size[0] * size[1])
    stream = stream_of(*size)
    pyav.prepare_decoder(stream, lanes=lanes)
    assert lanes == decoders
    assert lanes == 1 or stream.codec_context.thread_count <= cores // lanes + 1


@pytest.mark.parametrize(("codec", "most"), [("hevc", 35_651_584), ("av1", 35_651_584), ("mjpeg", 2**26)])
def test_decoders_that_hold_many_pictures_get_smaller_ones(codec: str, most: int) -> None:
    stream = stream_of(160, 96, codec)
    pyav.prepare_decoder(stream, lanes=1)
    assert stream.codec_context.options == {"max_pixels": str(most * 5 // 4)}


def test_pictures_that_are_too_large(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "_MOST_PIXELS_OF_LEVELS", 160 * 96 - 1)
    with pytest.raises(VideoError, match=r"clip\.mp4 has pictures of more than 15,359 pixels: scale it down first"):
        probe(clip)


def test_pictures_that_grow_too_large_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "_MOST_PIXELS_OF_LEVELS", 160 * 96)
    parts = [
        make.write(tmp_path / f"{k}.h264", 10, size=part, first=10 * k, options={"bf": "0"}).read_bytes()
        for k, part in enumerate([(160, 96), (320, 192)])
    ]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(parts))
    got = decode(both, SamplingConfig(frames=20))
    assert make.read_all(got.pixels.numpy()) == list(range(10))
    assert "10 of 20 sampled frames are lost" in got.notices[0]


def test_an_index_takes_a_few_bytes_for_each_frame(tmp_path: Path) -> None:
    options = {"bf": "2", "g": "12"}
    count, packets_not_yet_collected = 20_000, 2_000_000
    many = make.write(tmp_path / "many.mp4", count, codec="mpeg4", size=(16, 16), rate=1000, options=options)
    tracemalloc.start()
    index = probe(many)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.info.frames == count
    assert kept / count < 12
    assert peak < 85 * count + packets_not_yet_collected
