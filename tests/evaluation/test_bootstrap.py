from __future__ import annotations

import numpy as np
import pytest

from aot.evaluation.bootstrap import Resampling

RNG = np.random.default_rng(5)
GROUPS = np.sort(RNG.integers(0, 12, 80))
GROUPS[:12] = np.arange(12)
FAMILIES = RNG.integers(0, 3, 80)
SCORES = RNG.random(80)
OTHERS = SCORES - 0.1 + 0.02 * RNG.random(80)


def straight_line(scores: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Micro and macro of every draw, by collecting the questions of the drawn videos one by one."""
    rng = np.random.default_rng(seed)
    micro, macro = [], []
    for counts in rng.multinomial(12, np.full(12, 1 / 12), size=draws):
        videos = [video for video, count in enumerate(counts) for _ in range(count)]
        picked = [k for video in videos for k in np.flatnonzero(video == GROUPS)]
        micro.append(np.mean([scores[k] for k in picked]))
        families = [[scores[k] for k in picked if FAMILIES[k] == family] for family in range(3)]
        macro.append(np.mean([np.mean(values) for values in families if values]))
    return np.array(micro), np.array(macro)


def test_intervals_are_those_of_the_straight_line_program() -> None:
    resampling = Resampling(GROUPS.tolist(), FAMILIES.tolist(), draws=300, seed=4)
    measured = (resampling.micro(SCORES), resampling.macro(SCORES))
    for got, drawn in zip(measured, straight_line(SCORES, 300, 4), strict=True):
        assert (got.low, got.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert resampling.micro(SCORES).mean == pytest.approx(SCORES.mean())
    families = [SCORES[family == FAMILIES].mean() for family in range(3)]
    assert resampling.macro(SCORES).mean == pytest.approx(np.mean(families))
    assert resampling.family(SCORES, 1).mean == pytest.approx(families[1])


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    resampling = Resampling(GROUPS.tolist(), FAMILIES.tolist())
    one, difference = resampling.micro(SCORES), resampling.micro(SCORES - OTHERS)
    assert difference.mean == pytest.approx((SCORES - OTHERS).mean())
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.high - difference.low < 0.2 * (one.high - one.low)


def test_questions_of_one_video_count_as_one() -> None:
    """Copies of the same question narrow nothing."""
    scores = (np.arange(30) % 2).astype(float)
    plain = Resampling(list(range(30)), [0] * 30).micro(scores)
    copied = Resampling(np.repeat(np.arange(30), 10).tolist(), [0] * 300).micro(scores.repeat(10))
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))


def test_a_rare_family_may_be_missing_from_a_draw() -> None:
    resampling = Resampling([0, 1, 2, 3, 4], [0, 0, 0, 1, 1])
    assert (resampling.macro(np.ones(5)).low, resampling.family(np.ones(5), 1).low) == (1.0, 1.0)


def test_one_video_has_no_interval() -> None:
    """Drawn again it is the same, which would look as if there were no doubt."""
    scores = np.array([0.0, 1.0, 1.0])
    alone = Resampling([0, 0, 0], [0, 0, 1])
    for interval, mean in ((alone.micro(scores), 2 / 3), (alone.macro(scores), 3 / 4), (alone.family(scores, 1), 1.0)):
        assert (interval.mean, interval.low, interval.high) == (pytest.approx(mean), None, None)
    several = Resampling([0, 0, 1], [0, 1, 0])
    assert several.micro(scores).low is not None
    assert several.family(scores, 0).low is not None
    assert several.family(scores, 1).low is None  # its questions are about one of the two videos
