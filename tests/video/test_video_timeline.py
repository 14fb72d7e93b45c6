"""Files joined byte by byte, in which the times of each part start again."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video import decode, probe
from aot.video import joined_recordings as joined_files
from aot.video.timeline import Timeline
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke

CODECS = {"ts": "libx264", "mkv": "libx264", "mpg": "mpeg1video", "webm": "libvpx"}
EVERY_FRAME = SamplingConfig(frames=1000)


def parts(folder: Path, kind: str, group: int = 10) -> list[Path]:
    """30 frames from 0, then 34 from 100."""
    options = {"g": str(group), "bf": "2"} if CODECS[kind] == "libx264" else {"g": str(group)}
    return [
        make.write(folder / f"{first}.{kind}", count, codec=CODECS[kind], first=first, options=options)
        for first, count in ((0, 30), (100, 34))
    ]


def joined(*files: Path) -> Path:
    target = files[0].with_name(f"joined{files[0].suffix}")
    target.write_bytes(b"".join(file.read_bytes() for file in files))
    return target


def decoded_in_order(path: Path) -> list[int | None]:
    """What plain decoding from the start shows."""
    with av.open(str(path)) as container:
        return [make.read(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize("group", [10, 250])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", CODECS)
def test_every_part_is_shown_after_the_one_before(kind: str, swapped: bool, group: int, tmp_path: Path) -> None:
    first, second = reversed(parts(tmp_path, kind, group)) if swapped else parts(tmp_path, kind, group)
    path = joined(first, second)
    index, got = probe(path), decode(path, EVERY_FRAME)
    assert make.read_all(got.pixels.numpy()) == decoded_in_order(path)
    assert (index.info.frames, index.restarts) == (64, 1)
    assert got.timestamps_s == pytest.approx([k / 25 for k in range(64)], abs=2e-3)
    assert index.info.duration_s == pytest.approx(64 / 25, abs=5e-3)
    assert "its 2 parts are shown one after another" in got.notices[0]


@pytest.mark.parametrize("kind", ["ts", "mpg"])
def test_chosen_frames_of_three_parts(kind: str, tmp_path: Path) -> None:
    first, second = parts(tmp_path, kind)
    path = joined(first, second, first)
    got = decode(path, SamplingConfig(frames=4, start_s=1.0, end_s=2.6))
    assert make.read_all(got.pixels.numpy()) == [25, 108, 121, 1]
    assert probe(path).restarts == 2


def test_a_clock_that_starts_again_below_the_first_time(tmp_path: Path) -> None:
    """Transport streams count to 2^33; FFmpeg takes an earlier time for one after that."""
    early, plain = parts(tmp_path, "ts")

    def later(packet: av.Packet) -> av.Packet:
        packet.pts, packet.dts = packet.pts + 100 * 90_000, packet.dts + 100 * 90_000
        return packet

    path = joined(make.remux(plain, tmp_path / "late.ts", later), early)
    assert make.read_all(decode(path, EVERY_FRAME).pixels.numpy()) == decoded_in_order(path)
    assert probe(path).info.duration_s == pytest.approx(64 / 25)


@pytest.mark.parametrize(("kind", "count", "read"), [("flv", 2, 1), ("mkv", 3, 2), ("mp4", 2, 1), ("mov", 2, 1)])
def test_parts_that_ffmpeg_does_not_reach_are_announced(
    kind: str, count: int, read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_files, "_PIECE_BYTES", 96)  # so that a beginning may lie in two pieces
    files = [make.write(tmp_path / f"{k}.{kind}", 10, first=10 * k, options={"bf": "0"}) for k in range(count)]
    path = joined(*files)
    got = decode(path, EVERY_FRAME)
    assert make.read_all(got.pixels.numpy()) == list(range(10 * read))
    assert any(
        re.fullmatch(r"another recording follows after 0\.[48] s in the file, which cannot be read", notice)
        for notice in got.notices
    )
    with pytest.raises(VideoError, match=r"another recording follows .*--strict refuses: convert its parts one by one"):
        decode(path, replace(EVERY_FRAME, strict=True))
    for whole in (files[0], joined(*files[:read])):
        assert not probe(whole).unread


def test_decord_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="whose timestamps restart: use --decoder pyav"):
        decode(joined(*parts(tmp_path, "ts")), SamplingConfig(decoder="decord"))


def packet(pts: int, dts: int, *, key: bool) -> Any:
    made = av.Packet(b"x")
    made.pts, made.dts, made.duration, made.is_keyframe = pts, dts, 1, key
    return made


def placed(packets: list[Any], *, wraps: bool) -> list[int | None]:
    timeline = Timeline(Fraction(1, 25), wraps=wraps)
    return [timeline.place(one).pts for one in packets]


def test_frames_that_are_reordered_stay_where_they_are() -> None:
    """Even where a container marks each of them as a keyframe."""
    times = [2, 5, 3, 4, 8, 6, 7]
    assert placed([packet(pts, dts, key=True) for dts, pts in enumerate(times)], wraps=True) == times


def test_a_long_pause_is_kept_where_times_do_not_wrap() -> None:
    packets = [(0, 0), (25 * 7200, 25 * 7200)]
    assert placed([packet(*times, key=True) for times in packets], wraps=False) == [0, 25 * 7200]
    assert placed([packet(*times, key=True) for times in packets], wraps=True) == [0, 1]
