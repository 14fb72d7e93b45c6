from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import real_clip

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video import decode, open_video, probe
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke


def test_frames_that_do_not_decode_are_dropped_with_a_notice(damaged: Path) -> None:
    got = decode(damaged, SamplingConfig(frames=90))
    count = len(got.pixels)
    assert 40 <= count < 90
    assert len(got.timestamps_s) == count
    lost = re.fullmatch(
        r"the video is damaged: (\d+) of 90 sampled frames are lost \(the first at 1\.[5-9] s\); continuing with (\d+)",
        got.notices[0],
    )
    assert lost is not None
    assert (int(lost[1]), int(lost[2])) == (90 - count, count)


def test_frames_after_lost_ones_are_reported_as_doubtful(damaged: Path) -> None:
    got = decode(damaged, SamplingConfig(frames=90))
    shown = make.read_all(got.pixels.numpy())
    doubtful = re.match(r"(\d+) of 90 sampled frames are damaged or follow damaged data", got.notices[1])
    assert doubtful is not None
    intact = len(got.pixels) - int(doubtful[1])
    assert shown[:intact] == [round(time * 25) for time in got.timestamps_s[:intact]]
    assert intact >= 35


def test_damage_ends_at_the_next_keyframe(clip: Path, tmp_path: Path) -> None:
    broken = make.overwrite_packets(clip, tmp_path / "broken.mp4", [12, 13, 14])
    got = decode(broken, SamplingConfig(frames=90))
    wrong = {
        round(time * 25)
        for time, number in zip(got.timestamps_s, make.read_all(got.pixels.numpy()), strict=True)
        if number != round(time * 25)
    }
    assert wrong <= set(range(10, 20))
    assert len(got.notices) == 2
    later = decode(broken, SamplingConfig(frames=90, start_s=0.8))
    assert later.timestamps_s[-70:] == pytest.approx([k / 25 for k in range(20, 90)])


def test_a_damaged_keyframe_costs_its_group_only(clip: Path, tmp_path: Path) -> None:
    broken = make.overwrite_packets(clip, tmp_path / "broken.mp4", [40])
    assert 40 in probe(clip).keyframes
    got = decode(broken, SamplingConfig(frames=3))  # 0, 44 and 89, each in a group of its own
    assert got.timestamps_s[-1] == pytest.approx(89 / 25)
    assert make.read_all(got.pixels.numpy())[-1] == 89
    assert got.notices != ()


@pytest.mark.parametrize(("frames", "end_s"), [(90, None), (8, None), (2, None), (44, 1.72)])
def test_strict_refuses_lost_and_doubtful_frames(damaged: Path, frames: int, end_s: float | None) -> None:
    """The last frame may be the one that is lost, and there may be nothing but doubtful ones."""
    sampling = SamplingConfig(frames=frames, end_s=end_s)
    assert decode(damaged, sampling).notices != ()
    with pytest.raises(VideoError, match=r"damaged\.mp4 is damaged near [123]\.\d s, which --strict refuses: copy"):
        decode(damaged, replace(sampling, strict=True))


def test_strict_takes_what_is_whole(clip: Path, damaged: Path) -> None:
    strict = SamplingConfig(frames=90, strict=True)
    assert len(decode(clip, strict).pixels) == 90
    assert len(decode(damaged, SamplingConfig(frames=10, end_s=1.2, strict=True)).pixels) == 10
    with open_video(clip, strict) as video, video.frames(times_s=video.plan.timestamps_s[::7], ahead=4) as stream:
        assert sum(len(frames.pixels) for frames in stream.segments(5)) == 13


def test_untouched_frames_of_a_damaged_file_come_without_notice(damaged: Path) -> None:
    got = decode(damaged, SamplingConfig(frames=10, end_s=1.2))
    assert len(got.pixels) == 10
    assert got.notices == ()


def test_nothing_decodes(one_gop: Path, tmp_path: Path) -> None:
    broken = make.overwrite_packets(one_gop, tmp_path / "broken.mp4", range(90))
    with pytest.raises(VideoError, match=r"none of the 8 frames sampled from .* can be decoded: copy"):
        decode(broken, SamplingConfig(frames=8))


def test_decord_is_refused_rather_than_given_substitutes(damaged: Path) -> None:
    with pytest.raises(VideoError, match="use --decoder pyav"):
        decode(damaged, SamplingConfig(decoder="decord"))


@pytest.mark.parametrize(("suffix", "options"), [(".mp4", {"movflags": "faststart"}), (".mkv", {})])
def test_a_download_that_stopped(suffix: str, options: dict[str, str], clip: Path, tmp_path: Path) -> None:
    whole = make.remux(clip, tmp_path / f"whole{suffix}", lambda packet: packet, options)
    assert decode(whole, SamplingConfig(frames=8)).notices == ()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    got = decode(cut, SamplingConfig(frames=8))
    assert re.match(r"the file announces 3\.\d s but its pictures end after [012]\.\d s; it may", got.notices[0])


@pytest.mark.parametrize(
    ("suffix", "start_s"),
    [("mkv", 0), ("mkv", 10**8), ("mkv", 1_700_000_000), ("mp4", 1_700_000_000), ("flv", 90_000), ("ts", 90_000)],
)
def test_a_recording_with_times_of_the_day_is_whole(suffix: str, start_s: int, tmp_path: Path) -> None:
    late = make.write(tmp_path / f"late.{suffix}", 8, times_ms=[1000 * start_s + 40 * k for k in range(8)])
    got = decode(late, SamplingConfig(frames=8))
    assert make.read_all(got.pixels.numpy()) == list(range(8))
    assert got.timestamps_s == pytest.approx([k / 25 for k in range(8)], abs=1e-3)
    assert got.notices == ()


def test_a_recording_with_times_of_the_day_that_was_cut_off(tmp_path: Path) -> None:
    times_ms = [1000 * 10**8 + 40 * k for k in range(90)]
    late = make.write(tmp_path / "late.mkv", 90, times_ms=times_ms, options={"g": "10"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(late.read_bytes()[: late.stat().st_size // 2])
    (notice,) = decode(cut, SamplingConfig(frames=8)).notices
    assert re.match(r"the file announces 3\.\d s but its pictures end after [12]\.\d s; it may", notice)


def test_a_real_damaged_clip() -> None:
    got = decode(real_clip("corrupted.mp4"), SamplingConfig(frames=50), size=(32, 32))
    assert len(got.pixels) == 49
    assert got.notices[0] == (
        "the video is damaged: 1 of 50 sampled frames are lost (the first at 3.0 s); continuing with 49"
    )
