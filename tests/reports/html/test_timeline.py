from __future__ import annotations

from dataclasses import replace

import pytest

from aot.reports.html.timeline import HEIGHT, WIDTH, timeline
from aot.reports.retention import FrameRetention

ROW = FrameRetention(0, 0.0, 0, True, None, 6, 0, 2, 8, 0.5)


def rows(times: list[float]) -> list[FrameRetention]:
    later = [replace(ROW, frame=n, timestamp_s=t, similarity=0.96, is_keyframe=n % 2 == 0) for n, t in enumerate(times)]
    return [ROW, *later[1:]]


def test_bars_are_as_high_as_their_counts() -> None:
    line = timeline(
        [
            ROW,
            replace(
                ROW, frame=1, timestamp_s=1.0, is_keyframe=False, similarity=0.9, own=0, distinct=4, merged=0, kept=4
            ),
        ],
        8,
    )
    first, second = line.bars
    assert first.parts == (("own", HEIGHT * 0.25, HEIGHT * 0.75), ("merged", 0.0, HEIGHT * 0.25))
    assert second.parts == (("distinct", HEIGHT / 2, HEIGHT / 2),)
    assert line.most_tokens == 8
    assert second.text == "frame 1 at 1.00 s: 4 tokens (4 distinct); similarity to the frame before 0.900"


def test_time_runs_from_left_to_right_within_the_drawing() -> None:
    line = timeline(rows([0.0, 0.5, 1.0, 3.0]), 8)
    middles = [bar.left + bar.width / 2 for bar in line.bars]
    assert middles == pytest.approx([WIDTH * x / 3.5 for x in (0.25, 0.75, 1.25, 3.25)])
    assert line.bars[0].left >= 0 and line.bars[-1].left + line.bars[-1].width <= WIDTH
    assert line.boundaries == pytest.approx([WIDTH * 1.0 / 3.5])
    assert line.similarity == f"{middles[1]:.1f},60.0 {middles[2]:.1f},60.0 {middles[3]:.1f},60.0"
    assert line.least_similarity == 0.9


@pytest.mark.parametrize("last_s", [0.04, 0.7, 1.0, 9.0, 61.0, 3600.0, 40000.0])
def test_times_on_the_axis_are_round_and_few(last_s: float) -> None:
    ticks = timeline(rows([last_s * n / 31 for n in range(32)]), 8).ticks
    assert 3 <= len(ticks) <= 10
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(0 <= x <= WIDTH for x, _ in ticks)
    span = last_s * 32 / 31
    for x, text in ticks:
        assert float(text) == pytest.approx(x * span / WIDTH - last_s / 62, abs=1e-6 * span + 1e-9)


def test_one_frame() -> None:
    line = timeline([ROW], 8)
    assert len(line.bars) == 1 and line.boundaries == () and line.similarity == ""


def test_clips_of_one_frame_have_no_boundaries() -> None:
    assert timeline([replace(row, is_keyframe=True) for row in rows([0.0, 1.0, 2.0])], 8).boundaries == ()
