from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import FRAMES, real_clip
from test_video_source import FakeInput
from torch.nn import functional as F  # noqa: N812

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.types import VideoFrames
from aot.video import decode, decode_pyav, open_video, player, probe
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke

DECODERS = ["pyav", "decord"]
EVERY_FRAME = SamplingConfig(frames=1000)


def numbers(frames: VideoFrames) -> list[int | None]:
    return make.read_all(frames.pixels.numpy())


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["clip", "one_gop", "webm"])
@pytest.mark.parametrize("frames", [1, 7, FRAMES])
def test_every_frame_is_the_one_asked_for(name: str, frames: int, decoder: Any, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    got = decode(path, SamplingConfig(frames=frames, decoder=decoder))
    asked = [0] if frames == 1 else [k * (FRAMES - 1) // (frames - 1) for k in range(frames)]
    assert numbers(got) == asked
    assert got.timestamps_s == pytest.approx([number / 25 for number in asked], abs=1e-3)
    assert got.notices == ()


@pytest.mark.parametrize("name", ["x.avi", "x.h264", "x.ts", "x.mkv"])
def test_other_containers(name: str, tmp_path: Path) -> None:
    path = make.write(tmp_path / name, FRAMES, options={"g": "10", "bf": "2"})
    got = decode(path, SamplingConfig(frames=7))
    assert numbers(got) == [0, 14, 29, 44, 59, 74, 89]
    assert got.notices == ()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_range_of_a_long_group_of_pictures(one_gop: Path, decoder: Any) -> None:
    got = decode(one_gop, SamplingConfig(fps=5, start_s=2, end_s=2.6, decoder=decoder))
    assert numbers(got) == [50, 55, 60, 65]


def test_hidden_frames_are_not_shown(trimmed: Path) -> None:
    got = decode(trimmed, SamplingConfig(frames=83))
    assert numbers(got) == list(range(7, 90))
    assert got.timestamps_s[0] == 0
    assert got.notices == ()


def test_decord_is_refused_where_it_is_wrong(trimmed: Path) -> None:
    with pytest.raises(VideoError, match="use --decoder pyav"):
        decode(trimmed, SamplingConfig(decoder="decord"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_largest_of_two_streams(two_streams: Path, decoder: Any) -> None:
    assert numbers(decode(two_streams, SamplingConfig(frames=5, decoder=decoder))) == [100, 104, 109, 114, 119]


def test_variable_frame_rate(vfr: Path) -> None:
    got = decode(vfr, SamplingConfig(frames=5, spacing="time"))
    assert numbers(got) == [0, 19, 26, 32, 39]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_upright_as_decord_does(degrees: int, clip: Path, tmp_path: Path) -> None:
    turned = make.turn(clip, tmp_path / "turned.mp4", degrees)
    ours = decode(turned, SamplingConfig(frames=5)).pixels
    assert torch.equal(ours, decode(turned, SamplingConfig(frames=5, decoder="decord")).pixels)
    assert numbers(VideoFrames(torch.rot90(ours, degrees // 90, (2, 3)), (), probe(turned).info)) == [0, 22, 44, 66, 89]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_every_pixel_is_shown_where_the_display_matrix_puts_it(degrees: int, mirrored: bool, tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    plain = make.write_picture(tmp_path / "plain.mp4", stored.repeat(16, 0).repeat(16, 1), "yuv444p", 1)
    path = make.turn(plain, tmp_path / "laid.mp4", degrees, mirrored=mirrored)
    got = decode(path, SamplingConfig(frames=1)).pixels[0].permute(1, 2, 0).numpy()
    a, b, c, d = (make.MIRRORED_TURNS if mirrored else make.TURNS)[degrees]
    before = decode(plain, SamplingConfig(frames=1)).pixels[0].permute(1, 2, 0).numpy()
    for y, x in np.ndindex(6, 10):
        shown_x, shown_y = 16 * (a * x + c * y) + 8 * (a + c), 16 * (b * x + d * y) + 8 * (b + d)  # its middle
        # A negative axis counts from the other edge, as the picture is moved back into view.
        assert np.abs(got[shown_y, shown_x].astype(int) - before[16 * y + 8, 16 * x + 8]).max() < 10


def test_decord_is_refused_for_a_mirrored_video(clip: Path, tmp_path: Path) -> None:
    path = make.turn(clip, tmp_path / "mirrored.mp4", 0, mirrored=True)
    with pytest.raises(VideoError, match=r"decord does not mirror .*: use --decoder pyav"):
        decode(path, SamplingConfig(decoder="decord"))


@pytest.mark.parametrize("name", ["clouds-720p.mp4", "nasa-two-streams.mp4", "rotated-90.mov"])
def test_decoders_agree_on_real_clips(name: str) -> None:
    path = real_clip(name)
    ours, decords = (decode(path, SamplingConfig(frames=6, decoder=decoder)) for decoder in ("pyav", "decord"))  # type: ignore[arg-type]
    assert torch.equal(ours.pixels, decords.pixels)
    assert ours.timestamps_s == decords.timestamps_s


def test_frames_are_resized_as_torch_does(clip: Path) -> None:
    full = decode(clip, SamplingConfig(frames=3)).pixels
    small = decode(clip, SamplingConfig(frames=3), size=(40, 56)).pixels
    assert (small.shape, small.dtype) == ((3, 3, 40, 56), torch.uint8)
    assert torch.equal(small, F.interpolate(full, (40, 56), mode="bicubic", antialias=True))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("colorspace", [1, 5])
def test_colors_survive_bt709_and_bt601_in_limited_and_full_range(
    pix_fmt: str, colorspace: int, tmp_path: Path
) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    picture = patches.repeat(16, 0).repeat(16, 1)
    path = make.write_picture(tmp_path / "colors.mp4", picture, pix_fmt, colorspace)
    got = decode(path, SamplingConfig(frames=1)).pixels[0].permute(1, 2, 0).numpy()
    assert np.abs(got[8::16, 8::16].astype(int) - patches).mean() < 2.5  # a mix-up costs 6 or more


@pytest.mark.parametrize(
    ("named", "like"), [(8, 2), (10, 9), (11, 2), (12, 2), (13, 2), (14, 2)], ids=lambda matrix: str(matrix)
)
def test_a_matrix_that_cannot_be_converted_is_guessed(named: int, like: int, tmp_path: Path) -> None:
    """As the ffmpeg program reads YCgCo, BT.2020 constant luminance, SMPTE 2085, chroma-derived and ICtCp."""
    patches = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    picture = patches.repeat(16, 0).repeat(16, 1)
    got, known = (
        decode(make.write_picture(tmp_path / f"{matrix}.mp4", picture, "yuv420p", 1, named=matrix), EVERY_FRAME)
        for matrix in (named, like)
    )
    assert torch.equal(got.pixels, known.pixels)
    assert [notice for notice in got.notices if "color matrix" in notice]
    assert not [notice for notice in known.notices if "color matrix" in notice]


@pytest.mark.parametrize("size", [None, (48, 80)])
def test_a_stream_that_changes_its_size(size: tuple[int, int] | None, tmp_path: Path) -> None:
    parts = [
        make.write(tmp_path / f"{k}.h264", 10, size=part, first=10 * k, options={"bf": "0"}).read_bytes()
        for k, part in enumerate([(160, 96), (320, 192)])
    ]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(parts))
    got = decode(both, SamplingConfig(frames=20), size=size)
    assert numbers(got) == list(range(20))
    assert tuple(got.pixels.shape[2:]) == (size or (96, 160))


def write_with_aspect(path: Path, aspect: Fraction) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(make.draw(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("degrees", [0, 90])
@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(4, 3), 213), (Fraction(1, 2), 80), (Fraction(1), 160), (Fraction(159, 160), 160), (Fraction(9), 160)],
)
def test_pixels_become_square(aspect: Fraction, width: int, degrees: int, decoder: Any, tmp_path: Path) -> None:
    path = write_with_aspect(tmp_path / "wide.mp4", aspect)
    plain = write_with_aspect(tmp_path / "plain.mp4", Fraction(1))
    if degrees:
        path, plain = (make.turn(each, tmp_path / f"turned-{each.name}", degrees) for each in (path, plain))
    size = (width, 96) if degrees else (96, width)
    info, got = probe(path).info, decode(path, SamplingConfig(frames=4, decoder=decoder))
    assert (info.height, info.width) == tuple(got.pixels.shape[2:]) == size
    stored = decode(plain, SamplingConfig(frames=4)).pixels
    assert torch.equal(got.pixels, F.interpolate(stored, size, mode="bicubic", antialias=True))
    small = decode(path, SamplingConfig(frames=4, decoder=decoder), size=(32, 40)).pixels  # in one step
    assert torch.equal(small, F.interpolate(stored, (32, 40), mode="bicubic", antialias=True))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (3, 1), (1, 300)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "avi"])
def test_pictures_of_any_size(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    path = tmp_path / f"tiny.{suffix}"
    codec, pix_fmt = {"png": ("png", "rgb24"), "jpg": ("mjpeg", "yuvj444p"), "avi": ("huffyuv", "rgb24")}[suffix]
    with av.open(str(path), "w", **({} if suffix == "avi" else {"format": "image2"})) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        picture = np.full((height, width, 3), (200, 40, 90), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    info = probe(path).info
    assert (info.height, info.width, info.frames) == (height, width, 1)
    for asked, found in ((None, size), ((5, 7), (5, 7))):
        pixels = decode(path, SamplingConfig(frames=4), size=asked).pixels
        assert tuple(pixels.shape) == (1, 3, *found)
        assert (pixels.float().mean((0, 2, 3)) - torch.tensor([200.0, 40, 90])).abs().max() < 3


def test_progress_counts_every_frame(clip: Path) -> None:
    seen: list[tuple[int, int]] = []
    decode(clip, SamplingConfig(frames=3), on_frame=lambda done, planned: seen.append((done, planned)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class Decoding:
    """What the PyAV decoder did: frames decoded in each run since a seek or opening, and files opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        self.opened = 0
        real_decode, real_open = player._decode, decode_pyav.open_container

        def decoding(*args: Any, **how: Any) -> Iterator[Any]:
            self.runs.append(0)
            for frame in real_decode(*args, **how):
                self.runs[-1] += 1
                yield frame

        def opening(*args: Any) -> Any:
            self.opened += 1
            return real_open(*args)

        monkeypatch.setattr(player, "_decode", decoding)
        monkeypatch.setattr(decode_pyav, "open_container", opening)


def test_seeking_skips_what_is_not_needed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(monkeypatch)
    assert numbers(decode(clip, SamplingConfig(frames=3))) == [0, 44, 89]
    assert decoding.runs == [1, 5, 8]  # two frames before the last are not decoded, since nothing refers to them


def test_one_group_of_pictures_is_decoded_once(one_gop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(monkeypatch)
    decode(one_gop, SamplingConfig(frames=9))
    (frames,) = decoding.runs
    assert frames < 0.9 * FRAMES


def test_keyframes_alone_are_decoded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(monkeypatch)
    got = decode(clip, SamplingConfig(frames=5, seek="keyframe"))
    assert numbers(got) == [0, 20, 40, 70, 80]
    assert got.timestamps_s == pytest.approx([0, 0.8, 1.6, 2.8, 3.2], abs=1e-3)
    assert decoding.runs == [1] * 5
    assert "moved to keyframes" in got.notices[0]


class Misled:
    """A container whose seeking fails, or lands `late` keyframes behind the right one."""

    def __init__(self, container: Any, late: int | None) -> None:
        self._container, self._late = container, late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def seek(self, pts: int, *, stream: Any) -> None:
        if self._late is None:
            raise av.error.InvalidDataError(1, "no index")
        self._container.seek(pts + round(self._late * 10 / 25 / stream.time_base), stream=stream)


@pytest.mark.parametrize("late", [1, 2, None])
def test_seeking_that_goes_wrong_is_made_good(late: int | None, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = decode_pyav.open_container

    @contextmanager
    def opening(*args: Any) -> Iterator[Any]:
        with real_open(*args) as container:
            yield Misled(container, late)

    monkeypatch.setattr(decode_pyav, "open_container", opening)
    got = decode(clip, SamplingConfig(frames=7))
    assert numbers(got) == [0, 14, 29, 44, 59, 74, 89]
    assert got.notices == ()


def test_open_groups_of_pictures_come_out_as_when_decoded_from_the_start() -> None:
    path = real_clip("h265.mp4")  # decord shows broken pictures here after it has sought
    every = decode(path, SamplingConfig(frames=10)).pixels
    assert torch.equal(decode(path, SamplingConfig(frames=4)).pixels, every[[0, 3, 6, 9]])
    assert torch.equal(every, decode(path, SamplingConfig(frames=10, decoder="decord")).pixels)


def test_an_av1_clip() -> None:
    path = real_clip("av1.mkv")
    assert decode(path, SamplingConfig(frames=4), size=(32, 32)).pixels.shape == (4, 3, 32, 32)
    with pytest.raises(VideoError, match=r"decord cannot read .*: use --decoder pyav"):
        decode(path, SamplingConfig(frames=4, decoder="decord"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_interrupt_passes_and_leaves_nothing(
    decoder: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, planned: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = []
    for _ in range(4):  # the first one may start threads that libraries keep
        monkeypatch.setattr(sys, "stdin", FakeInput(clip.read_bytes()))
        with pytest.raises(KeyboardInterrupt):
            decode("-", SamplingConfig(decoder=decoder), on_frame=interrupt)
        held.append(resources())
    assert list(tmp_path.iterdir()) == []
    assert held[1] == held[2] == held[3]


@pytest.mark.parametrize("decoder", DECODERS)
def test_nothing_leaks(clip: Path, decoder: Any) -> None:
    decode(clip, SamplingConfig(frames=4, decoder=decoder), size=(32, 32))
    before = resources()
    for _ in range(20):
        decode(clip, SamplingConfig(frames=4, decoder=decoder), size=(32, 32))
    assert resources() == before


def resources() -> tuple[int, int]:
    """Open file descriptors and threads, the decoders' own included."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208


def test_a_stream_that_first_appears_midway(tmp_path: Path) -> None:
    late = make.write_late_sound(tmp_path / "late.ts", tmp_path)
    frames = probe(late).info.frames
    assert frames >= 29  # joining the file's parts may cost one
    got = decode(late, SamplingConfig(frames=frames), size=(8, 8))
    assert (len(got.pixels), got.notices) == (frames, ())


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_video_that_has_begun_gives_the_same_frames_each_time(clip: Path, decoder: Any) -> None:
    sampling, size = SamplingConfig(frames=6, decoder=decoder), (24, 32)
    expected = decode(clip, sampling, size=size)
    with open_video(clip, sampling) as opened, opened.begun(size=size, ahead=2) as video:
        streams = list(video.streams)
        assert [stream.planned for stream in streams] == [6]
        assert streams[0].decode_ms > 0, "no frame was decoded before anybody asked"
    with open_video(clip, sampling) as opened, opened.begun(size=size, ahead=2) as video:
        with open_video(video, sampling) as same:
            assert same is video
        for times in (expected.timestamps_s[1:3], None, None):  # only the second is what has begun
            with video.frames(size=size, ahead=2, times_s=times) as stream:
                (frames,) = stream.segments(6)
            chosen = slice(1, 3) if times else slice(None)
            assert torch.equal(frames.pixels, expected.pixels[chosen])
            assert frames.timestamps_s == expected.timestamps_s[chosen] and not stream.notices
        with video.frames(size=(12, 16)) as stream:
            assert next(stream.segments(6)).pixels.shape[2:] == (12, 16)
