from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aot.compression.aot.anchors import rank_patches
from aot.compression.aot.budget import Allocation, allocate, anchors_for_ratio, kept_cells
from aot.compression.ops.budget import spread
from aot.compression.ops.grid import pool
from aot.types import Clip, Pooling
from tests.support import oracle

Votes = Callable[[int], torch.Tensor]

# Anchors for a share of the tokens


@pytest.mark.parametrize(
    ("ratio", "anchors"),
    [
        (0.10, 126),
        (0.15, 144),
        (0.20, 196),
        (0.25, 205),
        (1.0, 729),
        (0.05, 63),
        (0.125, 135),
        (0.625, 467),
        (0.0001, 1),
    ],
)
def test_anchors_at_ratios(ratio: float, anchors: int) -> None:
    assert anchors_for_ratio(ratio, 729) == anchors


@pytest.mark.parametrize(("patches", "anchors"), [(729, 126), (576, 100), (196, 34), (9, 2), (1, 1)])
def test_anchors_follow_the_grid(patches: int, anchors: int) -> None:
    assert anchors_for_ratio(0.10, patches) == anchors


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=2), st.integers(1, 2000))
def test_more_tokens_take_no_fewer_anchors(ratios: list[float], patches: int) -> None:
    low, high = (anchors_for_ratio(ratio, patches) for ratio in sorted(ratios))
    assert 1 <= low <= high <= patches


# Cells


@pytest.mark.parametrize("row", oracle.GOLDEN, ids=lambda row: f"M{row.count}-{row.pool_kind}")
def test_golden_kept_cells(row: oracle.Golden) -> None:
    shallow, deep, _ = oracle.golden_input()
    ranking = rank_patches(torch.from_numpy(shallow), torch.from_numpy(deep), oracle.GOLDEN_GRID)
    votes = pool(ranking.select(row.count, 0.5).float()[..., None], oracle.GOLDEN_GRID, Pooling(row.pool_kind))[..., 0]
    kept = kept_cells(votes)
    assert tuple(kept.sum(1).tolist()) == row.kept_per_frame
    assert tuple(kept[0].nonzero().flatten()[:8].tolist()) == row.first_kept_cells


def test_kept_cells_are_the_oracles() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 5, size=(40, 9)) / 4 * rng.integers(0, 2, size=(40, 1))
    assert [mask.nonzero().flatten().tolist() for mask in kept_cells(torch.from_numpy(votes))] == oracle.kept_cells(
        votes
    )


# Exact budgets


def votes_of(frames: int, grid: tuple[int, int], local_ratio: float, kind: oracle.PoolKind, seed: int) -> Votes:
    rng = np.random.default_rng(seed)
    shallow, deep = torch.from_numpy(rng.random((2, frames, grid[0] * grid[1])) + 0.1)
    ranking = rank_patches(shallow, deep, grid)
    return lambda anchors: pool(ranking.select(anchors, local_ratio).float()[..., None], grid, Pooling(kind))[..., 0]


def emitted(found: Allocation, clips: Sequence[Clip]) -> int:
    """Tokens that come out: each keyframe as often as it is emitted, and the distinct ones."""
    assert found.distinct is not None
    counts = found.kept.sum(1).tolist()
    keyframes = sum(copies * counts[clip.first] for clip, copies in zip(clips, found.copies, strict=True))
    return keyframes + sum(found.distinct)


Problem = tuple[int, int, int, tuple[Clip, ...], Votes, torch.Tensor, int]


@st.composite
def problems(draw: st.DrawFn, most_local: float = 1.0) -> Problem:
    frames, clip_frames = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    grid = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    kind, seed = draw(st.sampled_from(["bilinear", "average"])), draw(st.integers(0, 2**32 - 1))
    votes_for, clips = (
        votes_of(frames, grid, draw(st.floats(0, most_local)), kind, seed),
        Clip.runs(frames, clip_frames),
    )
    cells = votes_for(1).shape[1]
    assume(frames * cells >= len(clips))
    budget, start = draw(st.integers(len(clips), frames * cells)), draw(st.integers(1, grid[0] * grid[1]))
    saliency = torch.from_numpy(np.random.default_rng(seed).random((frames, cells)))
    return budget, start, grid[0] * grid[1], clips, votes_for, saliency, draw(st.sampled_from([1, 2]))


@settings(max_examples=150)
@given(problems())
def test_any_budget_is_met_to_the_token(problem: Problem) -> None:
    budget, start, patches, clips, votes_for, saliency, copies = problem
    found = allocate(budget, start, patches, clips, votes_for, saliency, copies)
    keyframes = [clip.first for clip in clips]
    counts = found.kept.sum(1)
    assert found.distinct is not None
    assert emitted(found, clips) == budget
    assert 1 <= found.anchors <= patches
    assert (counts >= 1).all()
    assert all(distinct <= count for distinct, count in zip(found.distinct, counts.tolist(), strict=True))
    assert all(found.distinct[frame] == 0 for frame in keyframes)
    assert set(found.copies) <= {1, copies}
    assert all(times == 1 for clip, times in zip(clips, found.copies, strict=True) if len(clip) == 1)
    # Only keyframes lose cells, and the rest of the budget is shared in proportion to the cells of later frames.
    untrimmed = kept_cells(votes_for(found.anchors))
    later = torch.ones(len(untrimmed), dtype=torch.bool)
    later[keyframes] = False
    assert torch.equal(found.kept[later], untrimmed[later])
    assert not (found.kept & ~untrimmed).any()
    assert found.distinct == spread(sum(found.distinct), (counts * later).tolist())


def published_base(votes: torch.Tensor, clips: Sequence[Clip]) -> int:
    counts = kept_cells(votes).sum(1).tolist()
    return sum(counts[clip.first] * (2 if len(clip) > 1 else 1) for clip in clips)


@pytest.mark.parametrize(("ratio", "anchors"), [(0.10, 126), (0.15, 144), (0.20, 196), (0.25, 205)])
def test_the_published_anchors_are_kept_where_they_fit(ratio: float, anchors: int) -> None:
    votes_for, clips = votes_of(32, (27, 27), 0.5, "bilinear", 1), Clip.runs(32, 4)
    budget = round(ratio * 32 * 196)
    assert published_base(votes_for(anchors), clips) <= budget
    found = allocate(budget, anchors_for_ratio(ratio, 729), 729, clips, votes_for, torch.ones(32, 196))
    assert found.anchors == anchors
    assert torch.equal(found.kept, kept_cells(votes_for(anchors)))


def test_too_many_anchors_are_lowered_until_the_keyframes_fit() -> None:
    votes_for, clips = votes_of(8, (27, 27), 0.5, "bilinear", 2), Clip.runs(8, 4)
    bases = {anchors: published_base(votes_for(anchors), clips) for anchors in range(1, 301)}
    budget = 100
    found = allocate(budget, 300, 729, clips, votes_for, torch.ones(8, 196))
    assert bases[found.anchors] <= budget < bases[found.anchors + 1]


def test_too_few_anchors_are_raised_until_there_is_enough_to_keep() -> None:
    votes_for, clips = votes_of(8, (27, 27), 0.5, "bilinear", 3), Clip.runs(8, 4)

    def capacity(anchors: int) -> int:
        kept = kept_cells(votes_for(anchors)).sum(1)
        return int(kept.sum() + kept[0] + kept[4])

    found = allocate(900, 10, 729, clips, votes_for, torch.ones(8, 196))
    assert capacity(found.anchors - 1) < 900 <= capacity(found.anchors)


def test_a_budget_between_two_steps_takes_the_larger_and_trims_it() -> None:
    """Frames on their own emit their kept cells and no others, so most budgets are met by trimming alone."""
    votes_for, clips = votes_of(4, (9, 9), 0.0, "bilinear", 5), Clip.runs(4, 1)
    totals = [int(kept_cells(votes_for(anchors)).sum()) for anchors in range(1, 82)]
    for budget in {*range(4, 100)} - {*totals}:
        larger = next(anchors for anchors in range(1, 82) if totals[anchors - 1] > budget)
        for start in (1, larger - 1, larger, 81):
            found = allocate(budget, max(start, 1), 81, clips, votes_for, torch.ones(4, 25))
            assert (found.anchors, int(found.kept.sum())) == (larger, budget)


FIXED = torch.tensor([[0.9, 0.5, 0.6, 0.6, 0.1], [1.0, 0.0, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.2, 0.0]])
SALIENCY = torch.tensor([[1.0, 9.0, 3.0, 2.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 1.0, 9.0, 9.0]])


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (12, [[0, 1, 2, 3], [0], [0, 1, 2]]),
        (11, [[0, 1, 2, 3], [0], [0, 1, 2]]),
        (10, [[0, 2, 3], [0], [0, 1, 2]]),  # the fewest votes
        (8, [[0, 2], [0], [0, 1, 2]]),  # then, of equal votes, the least salient
        (6, [[0], [0], [0, 1, 2]]),
        (5, [[0], [0], [0, 1, 2]]),
        (4, [[0], [0], [0, 1]]),
        (3, [[0], [0], [0]]),  # and of equal saliency the later cell
    ],
)
def test_keyframes_give_up_their_weakest_cells(budget: int, kept: list[list[int]]) -> None:
    clips = (Clip(0, 2), Clip(2, 3))
    found = allocate(budget, 1, 1, clips, lambda anchors: FIXED, SALIENCY)
    assert found.copies == (2, 1)
    assert [mask.nonzero().flatten().tolist() for mask in found.kept] == kept
    assert emitted(found, clips) == budget


def test_every_clip_keeps_its_best_cell() -> None:
    votes = torch.tensor([[0.6, 0.5, 0.0], [1.0, 1.0, 1.0]])
    found = allocate(2, 1, 1, Clip.runs(2, 1), lambda anchors: votes, torch.ones(2, 3))
    assert found.kept.tolist() == [[True, False, False], [True, False, False]]


def test_a_budget_without_room_for_two_copies_emits_keyframes_once() -> None:
    clips = (Clip(0, 2), Clip(2, 3))
    found = allocate(2, 1, 1, clips, lambda anchors: FIXED, SALIENCY)
    assert found.copies == (1, 1)
    assert found.kept.sum(1)[[0, 2]].tolist() == [1, 1]
    assert emitted(found, clips) == 2


def test_a_budget_below_one_token_per_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget: expected at least 2 \(one token per clip\), got 1"):
        allocate(1, 1, 1, (Clip(0, 2), Clip(2, 3)), lambda anchors: FIXED, SALIENCY)


@settings(max_examples=60)
@given(problems(most_local=0.0))
def test_the_nearest_workable_number_of_anchors_is_taken(problem: Problem) -> None:
    """Where more anchors always contain fewer ones; the first local anchors displace global ones."""
    budget, start, patches, clips, votes_for, saliency, copies = problem
    found = allocate(budget, start, patches, clips, votes_for, saliency, copies)

    def bounds(anchors: int) -> tuple[int, int]:
        counts = kept_cells(votes_for(anchors)).sum(1)
        first = counts[[clip.first for clip in clips]]
        base = int((first * torch.tensor(found.copies)).sum())
        return base, base + int(counts.sum() - first.sum())

    bases, capacities = zip(*(bounds(anchors) for anchors in range(1, patches + 1)), strict=True)
    workable = [m for m in range(1, patches + 1) if bases[m - 1] <= budget <= capacities[m - 1]]
    if workable:
        assert found.anchors in workable
        assert abs(found.anchors - start) == min(abs(anchors - start) for anchors in workable)
    else:  # the first number whose keyframes can be trimmed to the budget
        assert found.anchors == next(m for m in range(1, patches + 1) if bases[m - 1] > budget)
