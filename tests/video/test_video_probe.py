from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import real_clip

from aot.errors import VideoError
from aot.video import probe
from aot.video.exif import exif_orientation
from aot.video.orientation import Orientation
from aot.video.pyav import as_fraction
from tests.support import make_videos as make


@dataclass(frozen=True)
class Unstated:
    """A rational that PyAV 19 gives where a file states none."""

    numerator: int
    denominator: int

    def __bool__(self) -> bool:
        return False


pytestmark = pytest.mark.smoke


def test_a_plain_clip(clip: Path) -> None:
    index = probe(clip)
    info = index.info
    assert (info.path, info.codec, info.width, info.height) == (str(clip), "h264", 160, 96)
    assert (info.frames, info.header_frames, info.discarded_frames, info.keyframes) == (90, 90, 0, 9)
    assert info.duration_s == pytest.approx(3.6)
    assert info.average_fps == pytest.approx(25)
    assert (info.rotation_degrees, info.variable_frame_rate, info.has_audio) == (0, False, False)
    assert tuple(index.keyframes) == tuple(range(0, 90, 10))
    assert list(index.times_s()) == pytest.approx([k / 25 for k in range(90)])
    assert not index.counted


@pytest.mark.parametrize("name", ["clip", "webm", "vfr", "trimmed", "two_streams"])
def test_laws(name: str, request: pytest.FixtureRequest) -> None:
    index = probe(request.getfixturevalue(name))
    times = index.times_s()
    assert all(earlier < later for earlier, later in pairwise(index.pts))
    assert len(times) == len(index.pts) == index.info.frames
    assert times[0] == 0 and times[-1] < index.info.duration_s
    assert set(index.keyframes) <= set(range(index.info.frames))
    assert len(index.keyframes) == index.info.keyframes


def test_frames_are_counted_where_the_header_does_not(webm: Path) -> None:
    info = probe(webm).info
    assert (info.codec, info.frames, info.header_frames) == ("vp9", 90, 0)


def test_variable_frame_rate(vfr: Path) -> None:
    index = probe(vfr)
    assert index.info.variable_frame_rate
    assert index.times_s()[18:22] == pytest.approx([0.72, 0.76, 0.8, 0.92])
    assert index.info.average_fps == pytest.approx(39 / 3.08)


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_rounding_to_milliseconds_is_not_a_variable_frame_rate(rate: int, tmp_path: Path) -> None:
    index = probe(make.write(tmp_path / "clip.mkv", 60, rate=rate))
    steps = {later - earlier for earlier, later in pairwise(index.pts)}
    assert len(steps) == 2, "the container does round"
    assert not index.info.variable_frame_rate


def test_frames_an_edit_list_hides_are_left_out(trimmed: Path) -> None:
    info = probe(trimmed).info
    assert (info.frames, info.discarded_frames, info.header_frames) == (83, 7, 90)
    assert info.duration_s == pytest.approx(83 / 25)


def test_the_largest_stream_is_taken(two_streams: Path) -> None:
    info = probe(two_streams).info
    assert (info.stream_index, info.video_streams, info.width, info.frames) == (1, 2, 160, 20)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(degrees: int, clip: Path, tmp_path: Path) -> None:
    info = probe(make.turn(clip, tmp_path / "turned.mp4", degrees)).info
    assert info.rotation_degrees == degrees
    assert (info.width, info.height) == ((96, 160) if degrees % 180 else (160, 96))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_mirror_is_told_from_a_turn(degrees: int, clip: Path, tmp_path: Path) -> None:
    info = probe(make.turn(clip, tmp_path / "mirrored.mp4", degrees, mirrored=True)).info
    assert (info.rotation_degrees, info.mirrored) == (degrees, True)
    assert (info.width, info.height) == ((96, 160) if degrees % 180 else (160, 96))


@pytest.mark.parametrize("rows", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 0)])
def test_a_matrix_that_flattens_the_picture_is_passed_over(
    rows: tuple[int, int, int, int], clip: Path, tmp_path: Path
) -> None:
    info = probe(make.lay_down(clip, tmp_path / "flat.mp4", rows)).info
    assert (info.rotation_degrees, info.mirrored, info.width, info.height) == (0, False, 160, 96)


def test_rotation_of_a_single_frame(tmp_path: Path) -> None:
    still = make.write(tmp_path / "still.mp4", 1)
    assert probe(make.turn(still, tmp_path / "turned.mp4", 90)).info.rotation_degrees == 90


@pytest.mark.parametrize(
    ("exif_orientation", "degrees", "mirrored"),
    [
        *((1, 0, False), (2, 0, True), (3, 180, False), (4, 180, True)),
        *((5, 90, True), (6, 90, False), (7, 270, True), (8, 270, False)),
    ],
)
def test_a_photo_is_laid_down_as_its_exif_data_say(
    exif_orientation: int, degrees: int, mirrored: bool, tmp_path: Path
) -> None:
    """Its frame holds data of a kind that PyAV may not know."""
    photo = make.write_photo(tmp_path / "photo.jpg", make.draw(77), exif_orientation)
    info = probe(photo).info
    assert (info.rotation_degrees, info.mirrored) == (degrees, mirrored)
    assert (info.width, info.height) == ((96, 160) if degrees % 180 else (160, 96))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mark", [b"Exif\0\0", b"eXIf", b"EXIF\x1a\0\0\0"])
def test_exif_data_of_other_files(mark: bytes, order: str) -> None:
    begin = {"<": b"II*\0", ">": b"MM\0*"}[order]
    other = struct.pack(f"{order}HHIHH", 0x100, 3, 1, 640, 0)
    wanted = struct.pack(f"{order}HHIHH", 0x112, 3, 1, 5, 0)
    data = b"before" + mark + begin + struct.pack(f"{order}IH", 8, 2) + other + wanted
    assert exif_orientation(data) == Orientation(90, mirrored=True)
    assert exif_orientation(data.replace(wanted, other)) is None
    for length in range(len(data)):
        exif_orientation(data[:length])  # cut anywhere, it raises nothing


def test_rotation_of_a_file_that_starts_hidden(trimmed: Path, tmp_path: Path) -> None:
    assert probe(make.turn(trimmed, tmp_path / "turned.mp4", 90)).info.rotation_degrees == 90


def test_vp8_references_that_are_never_shown_do_not_count(tmp_path: Path) -> None:
    shown = make.write(tmp_path / "shown.webm", 20, codec="libvpx", options={"deadline": "realtime"})
    hidden = make.hide_vp8_frame(shown, tmp_path / "hidden.webm", 6)
    assert (probe(shown).info.frames, probe(hidden).info.frames) == (20, 19)


@pytest.mark.parametrize(("name", "counted"), [("x.avi", True), ("x.h264", True), ("x.ts", False)])
def test_containers_without_usable_times(name: str, counted: bool, tmp_path: Path) -> None:
    index = probe(make.write(tmp_path / name, 30, options={"g": "10", "bf": "2"}))
    assert (index.info.frames, index.counted) == (30, counted)
    assert index.info.duration_s == pytest.approx(30 / 25, abs=0.05)


def test_sound_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has no picture, no video stream: give"):
        probe(make.write_sound(tmp_path / "sound.m4a"))


def test_sound_with_a_cover(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has only a cover picture, no video stream: give"):
        probe(make.write_sound_with_cover(tmp_path / "song.mp3", tmp_path))


def test_cut_off_before_the_index(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(VideoError, match="not a video, or was cut off before its index: copy"):
        probe(cut)


def test_garbage(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(VideoError, match=r"garbage.mp4 is not a video"):
        probe(garbage)


def test_no_frames(clip: Path, tmp_path: Path) -> None:
    # The index is intact and in front, but every picture behind it is gone.
    cut = make.remux(clip, tmp_path / "front.mp4", lambda packet: packet, {"movflags": "faststart"})
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(VideoError, match="no video frame"):
        probe(cut)


def test_real_clips() -> None:
    assert probe(real_clip("av1.mkv")).info.codec == "av1"
    nasa = probe(real_clip("nasa-two-streams.mp4")).info
    assert (nasa.width, nasa.height, nasa.frames, nasa.has_audio) == (480, 270, 390, True)
    rotated = probe(real_clip("rotated-90.mov")).info
    assert (rotated.width, rotated.height, rotated.rotation_degrees) == (320, 568, 90)


def test_tags_that_are_not_utf_8(tmp_path: Path) -> None:
    plain = make.write(tmp_path / "plain.mkv", 5, title="a title of bytes")
    tagged = tmp_path / "tagged.mkv"
    tagged.write_bytes(plain.read_bytes().replace(b"a title of bytes", b"\xe9\xff\xfe\x80itle of bytes"))
    assert tagged.read_bytes() != plain.read_bytes()
    assert probe(tagged).info.frames == 5


@pytest.mark.parametrize("unstated", [None, Unstated(0, 1), Unstated(0, 0)])
def test_a_rate_that_a_file_does_not_state(unstated: Unstated | None) -> None:
    assert as_fraction(unstated) is None
    assert as_fraction(Fraction(30000, 1001)) == Fraction(30000, 1001)
