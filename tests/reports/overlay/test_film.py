"""A clip and its overlay: the same frames at the same times, kept cells as they were, all or nothing."""

from __future__ import annotations

import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.error import InvalidDataError

from aot.config.schema import SamplingConfig
from aot.errors import AOTError, ConfigError, OutputError, VideoError
from aot.reports.fates import Fate
from aot.reports.overlay import TokenFates, check_overlay, film, write_overlay
from aot.video import decode, probe
from tests.support import make_videos as make

REAL_CLIPS = Path(__file__).resolve().parents[4] / "shared" / "videos"
EVERY_FRAME = SamplingConfig(frames=1000)
VARYING_MS = (0, 33, 66, 200, 500, 533, 534, 2000)
GRID = (2, 8)  # a cell for each block of the pictures of `make_videos`
KEPT = TokenFates(torch.full((1, 16), int(Fate.KEPT), dtype=torch.uint8), GRID, [0.0])


def shown(path: Path) -> list[Fraction]:
    """When each frame is shown, from the first on, and when the last one ends."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = sorted(
            (packet.pts, packet.duration or 0)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard and packet.pts is not None
        )
        assert stream.time_base
        times = [pts for pts, _ in packets] + [sum(packets[-1])]
        return [(time - times[0]) * stream.time_base for time in times]


def film_of(clip: Path, tokens: TokenFates = KEPT, sampling: SamplingConfig = EVERY_FRAME) -> Path:
    output = clip.with_name("overlay.mp4")
    write_overlay(clip, output, tokens, sampling, overwrite=True)
    return output


def check_numbers(overlay: Path, numbers: list[int]) -> None:
    assert make.read_all(decode(overlay, EVERY_FRAME).pixels.numpy()) == numbers


def test_large_pictures_are_drawn_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "_MOST_PIXELS", 320 * 192)
    clip = make.write(tmp_path / "clip.mp4", 8, size=(640, 384))
    overlay = film_of(clip)
    assert shown(overlay) == shown(clip)
    check_numbers(overlay, list(range(8)))
    info = probe(overlay).info
    assert (info.width, info.height) == (320, 192)


def test_constant_rate(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mp4", 30, options={"bf": "2", "g": "10"})
    overlay = film_of(clip)
    assert shown(overlay) == shown(clip)
    check_numbers(overlay, list(range(30)))
    info = probe(overlay).info
    assert (info.codec, info.discarded_frames, info.variable_frame_rate) == ("h264", 0, False)
    assert info.duration_s == probe(clip).info.duration_s


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_variable_rate(tmp_path: Path, suffix: str) -> None:
    clip = make.write(tmp_path / f"clip.{suffix}", len(VARYING_MS), times_ms=VARYING_MS)
    overlay = film_of(clip)
    assert shown(overlay)[:-1] == [Fraction(time, 1000) for time in VARYING_MS]
    assert probe(overlay).info.duration_s == pytest.approx(probe(clip).info.duration_s, abs=1 / 16000)
    check_numbers(overlay, list(range(len(VARYING_MS))))


def test_each_frame_says_how_long_it_is_shown(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mkv", len(VARYING_MS), times_ms=VARYING_MS)
    with av.open(str(film_of(clip))) as container:
        found = [(packet.pts, packet.duration) for packet in container.demux(video=0) if packet.size]
    tick = (found[1][0] or 0) / VARYING_MS[1]
    assert [(pts or 0) / tick for pts, _ in found] == list(VARYING_MS)
    gaps = [later - time for time, later in pairwise(VARYING_MS)]
    assert [(duration or 0) / tick for _, duration in found][:-1] == gaps


@pytest.mark.parametrize("name", ["av1.mkv", "clouds-720p.mp4", "h265.mp4", "nasa-two-streams.mp4", "rotated-90.mov"])
def test_times_of_real_clips(tmp_path: Path, name: str) -> None:
    if not (REAL_CLIPS / name).exists():
        pytest.skip("the shared clips are not here")
    sampling = SamplingConfig(frames=1000, end_s=1.0)
    overlay = tmp_path / "overlay.mp4"
    write_overlay(REAL_CLIPS / name, overlay, KEPT, sampling)
    clip, drawn = probe(REAL_CLIPS / name), probe(overlay)
    count = len(drawn.pts)
    assert count == sum(time <= 1.0 for time in clip.times_s())
    times = [(pts - clip.pts[0]) * clip.time_base for pts in clip.pts[:count]]
    assert [pts * drawn.time_base for pts in drawn.pts] == times
    assert (drawn.info.width, drawn.info.height) == (clip.info.width, clip.info.height)


def test_an_edit_list_and_a_file_without_times(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "whole.mp4", 30)
    overlay = film_of(make.trim(clip, tmp_path / "trimmed.mp4", 7))
    check_numbers(overlay, list(range(7, 30)))
    assert shown(overlay) == [Fraction(k, 25) for k in range(24)]
    overlay = film_of(make.write(tmp_path / "clip.avi", 10, codec="mpeg4"))
    check_numbers(overlay, list(range(10)))
    assert shown(overlay) == [Fraction(k, 25) for k in range(11)]


def test_only_the_range_and_from_zero(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mp4", 30)
    overlay = film_of(clip, sampling=SamplingConfig(frames=2, start_s=0.4, end_s=0.6, fps=3, select_frames=1))
    check_numbers(overlay, list(range(10, 16)))
    assert shown(overlay) == [Fraction(k, 25) for k in range(7)]


def test_the_larger_stream_and_no_sound(tmp_path: Path) -> None:
    overlay = film_of(make.write_two_streams(tmp_path / "two.mp4", 12, 5))
    check_numbers(overlay, list(range(100, 105)))
    with av.open(str(overlay)) as container:
        assert len(container.streams) == 1
    data = overlay.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_upright_with_kept_cells_as_they_were(tmp_path: Path, clip_file: Path, degrees: int, mirrored: bool) -> None:
    clip = make.turn(clip_file, tmp_path / "turned.mp4", degrees, mirrored=mirrored)
    fates = torch.tensor([[Fate.KEPT, Fate.DISCARDED, Fate.DISCARDED, Fate.DISTINCT]], dtype=torch.uint8)
    overlay = film_of(clip, TokenFates(fates, (2, 2), [0.0]))
    drawn = probe(overlay).info
    assert (drawn.rotation_degrees, drawn.mirrored) == (0, False)
    before, after = (decode(path, EVERY_FRAME).pixels.float() for path in (clip, overlay))
    assert before.shape == after.shape
    height, width = before.shape[2:]
    top, bottom = slice(6, height // 2 - 6), slice(height // 2 + 6, -12)
    left, right = slice(6, width // 2 - 6), slice(width // 2 + 6, -6)
    assert (before - after)[:, :, top, left].abs().mean() < 4
    assert (before - after)[:, :, bottom, right].abs().mean() < 4
    assert after[:, :, top, right].mean() < 0.4 * before[:, :, top, right].mean()
    assert after[:, :, bottom, left].mean() < 0.4 * before[:, :, bottom, left].mean()


def test_an_odd_size_grows_by_a_pixel(tmp_path: Path) -> None:
    picture = np.full((97, 161, 3), (200, 60, 90), np.uint8)
    clip = make.write_picture(tmp_path / "odd.mp4", picture, "yuv444p", 1)
    assert (probe(clip).info.width, probe(clip).info.height) == (161, 97)
    (drawn,) = decode(film_of(clip, TokenFates(KEPT.fates[:, :1], (1, 1), [0.0])), EVERY_FRAME).pixels
    assert drawn.shape == (3, 98, 162)
    assert (drawn[:, 6:-12, 6:-6].float().mean((1, 2)) - torch.tensor([200.0, 60, 90])).abs().max() < 3


def test_a_clip_that_changes_its_size(tmp_path: Path) -> None:
    """The first frame's size holds for all, as in what the model sees."""
    parts = [
        make.write(tmp_path / name, 5, size=size) for name, size in (("a.h264", (160, 96)), ("b.h264", (320, 192)))
    ]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    overlay = film_of(tmp_path / "both.h264")
    check_numbers(overlay, [0, 1, 2, 3, 4] * 2)
    assert (probe(overlay).info.width, probe(overlay).info.height) == (160, 96)


def test_a_border_exactly_while_a_keyframe_is_the_nearest(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mp4", 25)
    tokens = TokenFates(torch.zeros(3, 16, dtype=torch.uint8), GRID, [0.0, 0.4, 0.8], frozenset({0, 2}))
    drawn = decode(film_of(clip, tokens), EVERY_FRAME).pixels.float()
    left = drawn[:, :, 10:80, :2].mean((2, 3))
    yellow = (left - torch.tensor([0xF0, 0xE4, 0x42])).abs().amax(1) < 25
    assert yellow.tolist() == [k <= 5 or k > 15 for k in range(25)]


def test_frames_that_do_not_decode_are_left_out_at_their_time(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mp4", 20, options={"g": "5", "bf": "0", "sc_threshold": "0"})
    overlay = film_of(make.overwrite_packets(clip, tmp_path / "damaged.mp4", [5]))
    times = shown(overlay)
    assert len(times) < 21
    assert times[-1] == Fraction(20, 25)
    assert set(times) <= set(shown(clip))
    numbers = make.read_all(decode(overlay, EVERY_FRAME).pixels.numpy())
    assert all(number == time * 25 for number, time in zip(numbers[-10:], times[-11:-1], strict=True))


def test_an_interrupt_leaves_nothing(tmp_path: Path, clip_file: Path) -> None:
    def interrupt(done: int, frames: int) -> None:
        assert frames == 24
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_overlay(clip_file, tmp_path / "o.mp4", KEPT, EVERY_FRAME, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert all(thread.name != "aot-ahead" for thread in threading.enumerate())
    (tmp_path / "o.mp4").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_overlay(clip_file, tmp_path / "o.mp4", KEPT, EVERY_FRAME, interrupt, overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_encoder_that_fails_leaves_nothing(tmp_path: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*values: object) -> None:
        raise InvalidDataError(1, "no such level")

    monkeypatch.setattr(film._Film, "add", fail)
    with pytest.raises(OutputError, match="convert"):
        write_overlay(clip_file, tmp_path / "o.mp4", KEPT, EVERY_FRAME)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_see(tmp_path: Path) -> None:
    clip = make.write(tmp_path / "clip.mp4", 10, options={"g": "30"})
    broken = make.overwrite_packets(clip, tmp_path / "broken.mp4", range(10))
    with pytest.raises(VideoError, match="decoded"):
        film_of(broken)
    assert not (tmp_path / "overlay.mp4").exists()


def refusal(source: Path | str, output: Path, kind: type[AOTError]) -> str:
    with pytest.raises(kind) as refused:
        check_overlay(source, output, overwrite=False)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_refusals(tmp_path: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.mp4").write_text("old")
    assert ".mp4" in refusal(clip_file, tmp_path / "o.avi", ConfigError)
    assert "--force" in refusal(clip_file, tmp_path / "there.mp4", OutputError)
    assert "another name" in refusal(clip_file, clip_file, OutputError)
    check_overlay(tmp_path / "missing", tmp_path / "o.mp4", overwrite=False)  # which others tell better
    monkeypatch.setattr(film, "_ENCODER", "no-such-encoder")
    assert "pip install" in refusal(clip_file, tmp_path / "o.mp4", OutputError)
