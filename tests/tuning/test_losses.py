"""Intervals cover the true mean as often as they say, and pairs cancel what is common."""

from __future__ import annotations

import numpy as np
import pytest

from aot.tuning.losses import Estimate, Losses, _t
from aot.tuning.verdict import videos_to_settle


def measured(values: list[list[float]], limit: float = 1.0) -> Losses:
    losses = Losses(limit)
    for video in values:
        losses.add("a", video)
    return losses


def test_by_hand() -> None:
    losses = measured([[0.0, 1.0, 2.0], [5.0]])
    found = losses.estimate("a")
    assert (found.videos, found.mean) == (2, 2.0)  # over questions, not over videos
    assert losses.on_video("a", 0) == 1.0
    assert found.low is not None and found.high is not None and found.low + found.high == pytest.approx(4)
    assert found.high - 2 == pytest.approx(12.7062 * found.spread, rel=1e-5)
    assert found.within == pytest.approx(0.25, abs=0.05)  # both draws are the first video
    alone = measured([[0.0, 1.0]]).estimate("a")
    assert (alone.low, alone.high, alone.within) == (None, None, None)
    assert not alone.is_above(-9) and not alone.is_below(9) and alone.meets(0.5)


@pytest.mark.parametrize("videos", [5, 20])
@pytest.mark.parametrize("coverage", [0.95, 0.99])
def test_coverage(videos: int, coverage: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        losses = measured((2 + rng.normal(0, 1, (videos, 1)) + rng.normal(0, 1, (videos, 6))).tolist())
        found = losses.estimate("a", coverage)
        assert found.low is not None and found.high is not None
        covered += found.low <= 2 <= found.high
    assert covered / 200 >= coverage - 0.03


def test_what_will_be_is_known_in_part() -> None:
    half = Estimate(10, 2.0, 1.0, 3.0)
    ahead = half.ahead(20)
    assert ahead.low == pytest.approx(2 - 0.5**0.5) and ahead.high == pytest.approx(2 + 0.5**0.5)
    assert half.ahead(10).low == half.ahead(10).high == 2.0
    assert (half.at_least(1.5).low, half.at_least(0.0), half.high) == (1.5, half, 3.0)
    assert not half.is_above(1.2) and ahead.is_above(1.2)


def test_pairs() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 30, 12)
    losses = Losses(0.0)
    for value in common:
        losses.add("one", [value])
    for value in common[:10]:
        losses.add("other", [value + 1 + rng.normal(0, 0.1)])
    difference = losses.difference("other", "one")
    assert difference.videos == 10 and difference.is_above(0) and difference.mean == pytest.approx(1, abs=0.2)
    assert not losses.estimate("other").is_above(0)


def test_videos_to_settle() -> None:
    rng = np.random.default_rng(2)
    losses = measured(rng.normal(0.6, 2.0, (20, 1)).tolist())
    found = losses.estimate("a")
    more = videos_to_settle(found, 1.0)
    assert more and found.within is not None and 0.5 < found.within < 0.95
    # With so many videos, in most draws the share within the limit reaches 95 %.
    shares = []
    for seed in range(40):
        own = np.random.default_rng(seed).normal(found.mean, found.spread * 20**0.5, (20 + more, 1))
        shares.append(measured(own.tolist()).estimate("a").within)
    assert np.median(shares) == pytest.approx(0.95, abs=0.03)
    assert videos_to_settle(found, found.mean) is None
    assert videos_to_settle(found, found.mean + 9) == 0 if found.within >= 0.95 else True


@pytest.mark.parametrize(
    ("coverage", "freedom", "expected"),
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.3027),
        (0.95, 3, 3.1824),
        (0.95, 4, 2.7764),
        (0.95, 19, 2.0930),
        (0.99, 4, 4.6041),
    ],
)
def test_quantiles_of_t(coverage: float, freedom: int, expected: float) -> None:
    assert _t(coverage, freedom) == pytest.approx(expected, rel=0.02)
