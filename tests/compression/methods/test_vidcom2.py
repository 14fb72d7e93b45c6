"""VidCom2 against a straight-line program and its golden values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.vidcom2 import VidCom2, center_likeness, frame_shares, steady_directions
from aot.types import TokenBudget
from tests.support import oracle
from tests.support.flat_index import flat
from tests.support.golden_input import golden_features, golden_tokens
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close

GOLDEN = [
    (0.1, 627, [19] * 27 + [21, 22, 23, 24, 25], 628, 2271.88118),
    (0.25, 1568, [47] * 27 + [53, 55, 57, 59, 62], 1555, 5002.57677),
]


def straight_line(x: np.ndarray, ratio: float) -> tuple[np.ndarray, list[float]]:
    """v + phi of every token, and the share of every frame."""
    frames, per_frame, width = x.shape
    flat = x.reshape(-1, width)
    variance = [np.mean((flat[:, c] - flat[:, c].mean()) ** 2) for c in range(width)]
    channels = sorted(range(width), key=lambda c: variance[c])[: max(1, width // 2)]
    unit = x[:, :, channels] / np.linalg.norm(x[:, :, channels], axis=-1, keepdims=True)

    def kernels(point: np.ndarray, center: np.ndarray) -> float:
        squared = float(((point - center) ** 2).sum())
        return sum(math.exp(-squared / (2 * a)) for a in (0.125, 0.25, 0.5, 1.0, 2.0))

    center = unit.reshape(-1, len(channels)).mean(0)
    v = np.array([[kernels(unit[t, i], center) for i in range(per_frame)] for t in range(frames)])
    phi = np.array([[kernels(unit[t, i], unit[t].mean(0)) for i in range(per_frame)] for t in range(frames)])
    unique = [-v[t].mean() for t in range(frames)]
    power = [math.exp((f - max(unique)) / 0.01) for f in unique]
    shares = [min(ratio * (1 + p / sum(power) - 1 / frames), 1.0) for p in power]
    return v + phi, shares


def published(x: np.ndarray, ratio: float) -> list[int]:
    score, shares = straight_line(x, ratio)
    per_frame = x.shape[1]
    kept = []
    for t, share in enumerate(shares):
        count = max(1, round(share * per_frame))
        kept += [t * per_frame + i for i in sorted(oracle.smallest(score[t], count))]
    return kept


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([(5, 5), (6, 4)]), st.floats(0.02, 1))
def test_published_selection(seed: int, frames: int, grid: tuple[int, int], ratio: float) -> None:
    kind: oracle.PoolKind = "bilinear" if seed % 2 else "average"
    tokens = random_tokens(seed, frames, grid, kind, torch.float64)
    x = oracle.pool_features(tokens.features.numpy(), grid, kind)
    budget = max(1, round(ratio * x.shape[0] * x.shape[1]))
    kept = VidCom2(paper_exact=True).compress(tokens, TokenBudget(budget, ratio))
    assert flat(kept) == published(x, ratio)
    assert_close(kept.features, x.reshape(-1, x.shape[2])[flat(kept)], "float64")


@given(st.integers(0, 10**6), st.integers(2, 8), st.floats(0.05, 0.95))
def test_exact_budgets_follow_the_published_shares(seed: int, frames: int, ratio: float) -> None:
    tokens = random_tokens(seed, frames, (6, 6), "average", torch.float64)
    x = oracle.pool_features(tokens.features.numpy(), (6, 6), "average")
    budget = max(1, round(ratio * frames * 9))
    kept = VidCom2().compress(tokens, budget)
    score, shares = straight_line(x, budget / (frames * 9))
    counts = torch.bincount(kept.frame.long(), minlength=frames).tolist()
    assert sum(counts) == budget
    if max(shares) < 1 <= 9 * min(shares):  # neither bound takes part
        assert all(abs(count - 9 * share) < 1 for count, share in zip(counts, shares, strict=True))
    assert flat(kept) == [t * 9 + i for t in range(frames) for i in sorted(oracle.smallest(score[t], counts[t]))]


@pytest.mark.parametrize(("ratio", "budget", "counts", "total", "output_sum"), GOLDEN)
def test_golden(ratio: float, budget: int, counts: list[int], total: int, output_sum: float) -> None:
    tokens = golden_tokens(torch.float64)
    kept = VidCom2(paper_exact=True).compress(tokens, TokenBudget(budget, ratio))
    assert torch.bincount(kept.frame.long()).tolist() == counts
    assert len(kept.features) == total
    assert float(kept.features.sum()) == pytest.approx(output_sum, abs=5e-6)
    assert len(VidCom2().compress(tokens, budget).features) == budget
    assert flat(kept) == published(golden_features(), ratio)


def test_published_counts_follow_from_the_ratio_itself() -> None:
    """5 % of 6272 is 313.6, of which 27 frames get 9.49 tokens each; of 314 they would get 9.51, 327 in all."""
    kept = VidCom2(paper_exact=True).compress(golden_tokens(torch.float64), TokenBudget(314, 0.05))
    assert len(kept.features) == 300


def test_golden_likeness() -> None:
    directions = steady_directions(torch.from_numpy(golden_features()), 0.5)
    of_video = center_likeness(directions, directions.mean((0, 1)))
    of_frame = center_likeness(directions, directions.mean(1, keepdim=True))
    assert float(of_video[0, 0]) == pytest.approx(2.341001, abs=5e-7)
    assert float(of_frame[0, 0]) == pytest.approx(2.348665, abs=5e-7)


def test_shares_average_to_the_ratio_and_favor_the_unusual() -> None:
    of_video = torch.tensor([[4.0, 4.0], [3.9, 3.9], [4.0, 4.0]])
    shares = frame_shares(of_video, 0.3, 0.01)
    assert float(shares.mean()) == pytest.approx(0.3)
    assert shares.argmax() == 1


def test_every_frame_has_a_token_as_long_as_they_go_round() -> None:
    tokens = random_tokens(1, 7, (6, 6), "average")
    assert VidCom2().compress(tokens, 7).frame.tolist() == list(range(7))
    assert len(VidCom2().compress(tokens, 3).features) == 3


def test_all_tokens_are_kept_where_the_budget_allows() -> None:
    assert flat(VidCom2().compress(random_tokens(2, 3, (6, 6), "average"), 100)) == list(range(27))
