from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.types import VideoInfo
from aot.video import FrameIndex, plan_frames

pytestmark = pytest.mark.smoke

INFO = VideoInfo(
    path="clip.mp4", container="mp4", codec="h264", width=160, height=96, rotation_degrees=0, stream_index=0,
    video_streams=1, frames=0, header_frames=0, discarded_frames=0, keyframes=1, duration_s=0.0,
    average_fps=0.0, variable_frame_rate=False, has_audio=False,
)  # fmt: skip


def index_of(pts_ms: list[int], last_ms: int = 100) -> FrameIndex:
    duration_s = (pts_ms[-1] - pts_ms[0] + last_ms) / 1000
    info = replace(INFO, frames=len(pts_ms), duration_s=duration_s)
    return FrameIndex(info, tuple(pts_ms), (0,), Fraction(1, 1000), counted=False)


TEN_PER_SECOND = index_of([500 + 100 * k for k in range(100)])
indexes = st.lists(st.integers(1, 400), min_size=1, max_size=150).map(
    lambda steps: index_of([int(t) for t in np.cumsum(steps)])
)
samplings = st.builds(
    SamplingConfig,
    frames=st.integers(1, 200),
    fps=st.none() | st.floats(0.01, 1e6),
    max_frames=st.integers(1, 200),
    spacing=st.sampled_from(["index", "time"]),
    seek=st.sampled_from(["exact", "keyframe"]),
    start_s=st.none() | st.floats(0, 10),
)


@given(indexes, samplings, st.none() | st.floats(0.001, 30))
def test_plans_are_sorted_unique_and_within_the_range(
    index: FrameIndex, sampling: SamplingConfig, length_s: float | None
) -> None:
    if length_s is not None:
        sampling = replace(sampling, end_s=(sampling.start_s or 0) + length_s)
    start, end = sampling.start_s or 0.0, float("inf") if sampling.end_s is None else sampling.end_s
    times = index.times_s()
    try:
        plan = plan_frames(index, sampling)
    except VideoError:
        assert not any(start <= time <= end for time in times)
        return
    assert all(earlier < later for earlier, later in pairwise(plan.positions))
    assert 1 <= len(plan.positions) <= (sampling.frames if sampling.fps is None else sampling.max_frames)
    assert plan.timestamps_s == tuple(times[position] for position in plan.positions)
    assert all(start <= time <= end for time in plan.timestamps_s)


@given(st.integers(1, 3000), st.integers(1, 300))
def test_frames_are_llavas_linspace(count: int, frames: int) -> None:
    plan = plan_frames(index_of([100 * k for k in range(count)]), SamplingConfig(frames=frames))
    if frames < count:
        assert plan.positions == tuple(np.linspace(0, count - 1, frames, dtype=int).tolist())
        assert plan.notices == ()
    else:
        assert plan.positions == tuple(range(count))
    if frames > 1:
        assert (plan.positions[0], plan.positions[-1]) == (0, count - 1)


@given(indexes, st.integers(2, 200))
def test_spacing_in_time_has_both_ends_and_even_steps(index: FrameIndex, frames: int) -> None:
    plan = plan_frames(index, SamplingConfig(frames=frames, spacing="time"))
    times = index.times_s()
    assert (plan.positions[0], plan.positions[-1]) == (0, len(times) - 1)
    if len(times) > frames:
        instants = np.linspace(0, times[-1], frames)
        shown = {max(k for k, time in enumerate(times) if time <= instant + 6e-4) for instant in instants}
        assert set(plan.positions) == shown


def test_too_few_frames_are_used_once_with_a_notice() -> None:
    plan = plan_frames(TEN_PER_SECOND, SamplingConfig(frames=32, start_s=1, end_s=1.9))
    assert plan.positions == tuple(range(10, 20))
    assert plan.notices == ("the range has only 10 frames; all 10 are used instead of 32",)
    one = plan_frames(TEN_PER_SECOND, SamplingConfig(frames=32, start_s=1, end_s=1.05))
    assert one.notices == ("the range has only 1 frame; it is used instead of 32",)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(frames=1), SamplingConfig(fps=2)])
def test_a_video_of_one_frame_is_a_picture(sampling: SamplingConfig) -> None:
    picture = index_of([0])
    assert plan_frames(picture, sampling).notices == ("clip.mp4 is a picture: one frame, without any motion",)
    for rest in (
        replace(picture, header_duration_s=9.0),
        replace(picture, info=replace(picture.info, header_frames=9)),
    ):
        assert not any("picture:" in notice for notice in plan_frames(rest, sampling).notices)


def test_strict_refuses_a_file_that_was_cut_off() -> None:
    cut = replace(TEN_PER_SECOND, header_duration_s=30.0)
    assert plan_frames(cut, SamplingConfig(frames=4)).notices == (
        "the file announces 30.0 s but its pictures end after 10.0 s; it may have been cut off",
    )
    with pytest.raises(VideoError, match=r"clip.mp4: the file announces 30.0 s .*, which --strict refuses: copy"):
        plan_frames(cut, SamplingConfig(frames=4, strict=True))
    assert plan_frames(TEN_PER_SECOND, SamplingConfig(frames=4, strict=True)).notices == ()


def test_a_range_includes_both_ends() -> None:
    assert plan_frames(TEN_PER_SECOND, SamplingConfig(frames=3, start_s=1.2, end_s=1.4)).positions == (12, 13, 14)


@pytest.mark.parametrize(("start_s", "end_s"), [(10.0, None), (12.0, 15.0), (0.01, 0.09)])
def test_a_range_without_frames_states_the_duration(start_s: float, end_s: float | None) -> None:
    with pytest.raises(VideoError, match=r"clip.mp4 lasts 10.00 s .* choose another --start"):
        plan_frames(TEN_PER_SECOND, SamplingConfig(start_s=start_s, end_s=end_s))


@pytest.mark.parametrize(
    ("fps", "start_s", "end_s", "positions"),
    [
        (1, None, None, range(0, 100, 10)),  # nothing is shown any more at 10 s
        (2, 1.0, 2.0, [10, 15, 20]),
        (10, None, None, range(100)),
        (1000, 9.5, None, range(95, 100)),
        (0.001, 3.0, None, [30]),
        (4, 0.05, 0.6, [1, 3, 5]),  # 0.05 (first in the range), 0.30, 0.55
    ],
)
def test_frames_per_second(fps: float, start_s: float | None, end_s: float | None, positions: list[int]) -> None:
    plan = plan_frames(TEN_PER_SECOND, SamplingConfig(fps=fps, start_s=start_s, end_s=end_s))
    assert plan.positions == tuple(positions)
    assert plan.notices == ()


@given(indexes, st.floats(0.1, 50))
def test_frames_per_second_are_the_frames_on_screen(index: FrameIndex, fps: float) -> None:
    plan = plan_frames(index, SamplingConfig(fps=fps, max_frames=1000))
    times, duration_s = index.times_s(), index.info.duration_s
    instants = [k / fps for k in range(int(duration_s * fps) + 1) if k / fps < duration_s]

    def shown(shift_s: float) -> list[int]:
        return [max(0, bisect_right(times, instant + shift_s) - 1) for instant in instants]

    # An instant within a millisecond of a frame's edge may fall on either side of it.
    early, late = shown(-1e-3), shown(1e-3)
    surely = {
        k for k, other, instant in zip(early, late, instants, strict=True) if k == other and instant < duration_s - 2e-3
    }
    assert surely <= set(plan.positions) <= {*early, *shown(0), *late}


def test_asking_for_the_own_rate_takes_every_frame_despite_rounding() -> None:
    index = index_of([round(k * 1000 / 30) for k in range(60)], last_ms=33)
    assert plan_frames(index, SamplingConfig(fps=30)).positions == tuple(range(60))


def test_frames_per_second_are_thinned_evenly() -> None:
    plan = plan_frames(TEN_PER_SECOND, SamplingConfig(fps=10, max_frames=4))
    assert plan.positions == (0, 33, 66, 99)
    assert plan.notices == ("--fps 10 makes 100 frames; thinned evenly to 4 (see --max-frames)",)


def test_max_frames_does_not_limit_frames() -> None:
    assert len(plan_frames(TEN_PER_SECOND, SamplingConfig(frames=50, max_frames=4)).positions) == 50


def test_spacing_in_time_drops_repeats_with_a_notice() -> None:
    index = index_of([0, 10, 20, 30, 1000])
    plan = plan_frames(index, SamplingConfig(frames=4, spacing="time"))
    assert plan.positions == (0, 3, 4)
    assert plan.notices == ("only 3 different frames are shown at the 4 evenly spaced times; using these",)


def with_keyframes(*keyframes: int) -> FrameIndex:
    return replace(TEN_PER_SECOND, keyframes=keyframes)


def test_keyframes_nearest_in_time_are_taken_once() -> None:
    index = with_keyframes(0, 30, 34, 60, 99)
    plan = plan_frames(index, SamplingConfig(frames=12, seek="keyframe"))  # 0, 9, 18, 27, 36, 45, 54, ...
    assert plan.positions == (0, 30, 34, 60, 99)
    assert plan.timestamps_s == (0.0, 3.0, 3.4, 6.0, 9.9)
    assert plan.notices == (
        "--seek keyframe: 10 of 12 sampled times moved to keyframes, by up to 1.8 s; 5 different frames remain",
    )


def test_as_many_keyframes_as_frames() -> None:
    plan = plan_frames(with_keyframes(2, 30, 64, 95), SamplingConfig(frames=4, seek="keyframe"))  # 0, 33, 66, 99
    assert plan.positions == (2, 30, 64, 95)
    assert plan.notices == ("--seek keyframe: 4 of 4 sampled times moved to keyframes, by up to 0.4 s",)


def test_keyframes_that_would_be_sampled_anyway_need_no_notice() -> None:
    plan = plan_frames(with_keyframes(*range(100)), SamplingConfig(frames=4, seek="keyframe"))
    assert (plan.positions, plan.notices) == ((0, 33, 66, 99), ())


@pytest.mark.parametrize(("start_s", "end_s", "positions"), [(2.0, 5.0, (30,)), (3.0, 6.0, (30, 60))])
def test_only_keyframes_in_the_range(start_s: float, end_s: float, positions: tuple[int, ...]) -> None:
    sampling = SamplingConfig(frames=8, start_s=start_s, end_s=end_s, seek="keyframe")
    assert plan_frames(with_keyframes(0, 30, 60), sampling).positions == positions


def test_a_range_without_keyframe_is_read_exactly() -> None:
    sampling = SamplingConfig(frames=4, start_s=1.0, end_s=2.0)
    plan = plan_frames(with_keyframes(0, 30), replace(sampling, seek="keyframe"))
    assert plan.positions == plan_frames(TEN_PER_SECOND, sampling).positions
    assert plan.notices == ("no keyframe is in the range: --seek keyframe has no effect",)
