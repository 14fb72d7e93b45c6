"""Schedules end at the count asked for, whatever the tower."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.in_tower.merging_schedules import (
    ClipShares,
    _plan,
    block_counts,
    clip_merging,
    frame_merging,
    joins_for,
)
from aot.types import BlockMerging

PUBLISHED = ClipShares()
CLIP_LENGTHS = [length for length in range(1, 13) if joins_for(length, PUBLISHED.joined)]


@given(st.integers(1, 300), st.integers(1, 30), st.floats(0, 1), st.sampled_from(["constant", "linear"]))
def test_a_frames_last_count_is_the_target(patches: int, blocks: int, share: float, schedule: str) -> None:
    target = max(1, round(share * patches))
    plan = frame_merging(patches, target, blocks, schedule)  # type: ignore[arg-type]
    counts = block_counts(plan, 1, patches)
    assert len(plan) == blocks and counts[-1] == target
    assert counts == sorted(counts, reverse=True)
    assert all(step.join == 1 and step.before == 0 for step in plan)


@pytest.mark.parametrize(("merges", "left"), [(21, 183), (22, 157), (23, 131), (25, 79)])
def test_published_rates_of_26_blocks(merges: int, left: int) -> None:
    assert frame_merging(729, left, 26) == (BlockMerging(after=merges, by_similarity=True),) * 26


@pytest.mark.parametrize(("target", "mean"), [(20, 27.3), (29, 26.9), (39, 26.5), (49, 26.2)])
def test_pooled_budgets_need_a_little_more(target: int, mean: float) -> None:
    merges = [step.after for step in frame_merging(729, target, 26)]
    assert sum(merges) / 26 == pytest.approx(mean, abs=0.05)
    assert merges == sorted(merges, reverse=True)  # what does not divide goes to the first blocks
    assert max(merges) - min(merges) <= 1


def test_less_is_left_everywhere_for_a_smaller_target() -> None:
    counts = [block_counts(frame_merging(225, target, 4), 1, 225) for target in (7, 16, 50)]
    assert counts == [[170, 115, 61, 7], [172, 120, 68, 16], [181, 137, 93, 50]]
    assert block_counts(frame_merging(64, 1, 1), 1, 64) == [1]


def test_linear_begins_with_twice_the_mean_and_ends_with_none() -> None:
    merges = [step.after for step in frame_merging(729, 183, 26, "linear")]
    assert merges == sorted(merges, reverse=True)
    assert (merges[0], merges[-1]) == (42, 0)


@given(st.sampled_from(CLIP_LENGTHS), st.integers(1, 240), st.integers(1, 30), st.floats(0, 1))
def test_a_clips_last_count_is_the_target(frames: int, patches: int, blocks: int, share: float) -> None:
    target = max(1, round(share * frames * patches))
    plan = clip_merging(frames, patches, target, blocks, PUBLISHED)
    counts = block_counts(plan, frames, patches)
    assert len(plan) == blocks and counts[-1] == target
    assert math.prod(step.join for step in plan) == frames
    assert all(a >= b for a, b in pairwise(counts))


def test_the_published_recursion() -> None:
    """12 blocks, 12 frames of 49 patches: 2 a block, then 30 and 10 %, then 10 %."""
    expected = [BlockMerging(after=2)] * 8
    count = 33
    for join in (2, 2, 3):
        before = int(0.3 * join * count)
        within = int(0.1 * (join * count - before))
        expected.append(BlockMerging(join, before, within))
        count = join * count - before - within
    expected.append(BlockMerging(after=int(0.1 * count)))
    assert _plan(49, 12, {8: 2, 9: 2, 10: 3}, PUBLISHED) == expected
    for step, near in zip(expected, clip_merging(12, 49, count - expected[-1].after, 12, PUBLISHED), strict=True):
        assert abs(step.before - near.before) <= 1 and abs(step.after - near.after) <= 1


def test_clip_blocks_are_at_their_relative_depth() -> None:
    assert PUBLISHED.clip_block_indices(12) == [8, 9, 10]
    assert PUBLISHED.clip_block_indices(26) == [17, 19, 21]
    assert PUBLISHED.clip_block_indices(4) == [1, 2, 3]
    assert PUBLISHED.clip_block_indices(1) == [0, 0, 0]


def test_frames_join_early() -> None:
    assert [joins_for(frames, (2, 2, 3)) for frames in (12, 8, 6, 4, 3, 2, 1)] == [
        (2, 2, 3), (2, 2, 2), (2, 1, 3), (2, 2, 1), (1, 1, 3), (2, 1, 1), (1, 1, 1),
    ]  # fmt: skip
    assert joins_for(5, (2, 2, 3)) is None


@pytest.mark.parametrize("target", [0, 10])
def test_targets_out_of_range(target: int) -> None:
    with pytest.raises(ValueError, match="target"):
        frame_merging(9, target, 3)
    with pytest.raises(ValueError, match="target"):
        clip_merging(1, 9, target, 3, PUBLISHED)


def test_frames_that_do_not_join() -> None:
    with pytest.raises(ValueError, match="frames"):
        clip_merging(5, 9, 9, 3, PUBLISHED)
