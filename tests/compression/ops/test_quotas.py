"""Shares within bounds, and the least tokens of every frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.budget import spread
from aot.compression.ops.quotas import bounded_shares, least_per_frame


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=12), st.integers(0, 3), st.integers(3, 9), st.floats(0, 1))
def test_shares_are_proportional_within_their_bounds(
    weights: list[float], least: int, most: int, fraction: float
) -> None:
    total = len(weights) * least + round(fraction * len(weights) * (most - least))
    shares = bounded_shares(total, torch.tensor(weights, dtype=torch.float64), least, most).tolist()
    assert sum(shares) == total
    assert all(least <= share <= most for share in shares)
    free = [(share, weight) for share, weight in zip(shares, weights, strict=True) if least < share < most]
    for share, weight in free:  # no two free shares are off their proportion by more than one token each
        for other, other_weight in free:
            assert (share + 1) / weight > (other - 1) / other_weight


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_without_bounds_they_are_shared_by_largest_remainder(weights: list[int], total: int) -> None:
    expected = spread(total, [weight * total for weight in weights])
    ideal = np.array(weights) * total / sum(weights)
    if len(np.unique(np.round(ideal % 1, 9))) == len(weights):  # equal remainders hang on rounding
        assert bounded_shares(total, torch.tensor(weights, dtype=torch.float64), 0, total).tolist() == list(expected)


def test_of_equals_the_first_has_more() -> None:
    assert bounded_shares(7, torch.full((5,), 0.3), 1, 3).tolist() == [2, 2, 1, 1, 1]


def test_what_a_bound_takes_the_others_get() -> None:
    assert bounded_shares(10, torch.tensor([8.0, 1.0, 1.0]), 0, 4).tolist() == [4, 3, 3]
    assert bounded_shares(10, torch.tensor([8.0, 1.0, 1.0]), 2, 8).tolist() == [6, 2, 2]


@pytest.mark.parametrize("total", [2, 10])
def test_totals_out_of_reach_are_refused(total: int) -> None:
    with pytest.raises(ValueError, match=f"total: expected 3 to 9, got {total}"):
        bounded_shares(total, torch.ones(3), 1, 3)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 7))
def test_the_least_of_every_frame(seed: int, frames: int, per_frame: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(frames, per_frame))
    counts = rng.integers(0, per_frame + 1, size=frames)
    expected = []
    for frame in range(frames):
        ranked = sorted(range(per_frame), key=lambda cell: scores[frame, cell])
        expected += [frame * per_frame + cell for cell in ranked[: counts[frame]]]
    assert least_per_frame(torch.from_numpy(scores), torch.from_numpy(counts), int(counts.sum())).tolist() == expected
