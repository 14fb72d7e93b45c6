"""EVS against a straight-line program and its golden values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.evs import EfficientVideoSampling
from aot.errors import BudgetError
from aot.types import Clip, TokenBudget
from tests.support import oracle
from tests.support.flat_index import flat
from tests.support.golden_input import golden_tokens
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close

GOLDEN_TENTH = [196, *[0] * 8, 59, *[0] * 8, 186, *[0] * 8, 186, *[0] * 4]
GOLDEN_QUARTER = [
    *(196, 63, 61, 59, 56, 50, 43, 37, 30),
    *(196, 13, 13, 15, 16, 16, 17, 17, 18),
    *(196, 23, 23, 25, 25, 25, 25, 25, 25),
    *(196, 16, 16, 16, 16),
]


def straight_line(x: np.ndarray, budget: int) -> list[int]:
    frames, per_frame = x.shape[:2]
    change = []
    for t in range(frames):
        for i in range(per_frame):
            a, b = x[t, i], x[t - 1, i]
            change.append(255.0 if t == 0 else 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)))
    return sorted(oracle.largest(change, budget))


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([(5, 5), (6, 4)]), st.floats(0, 1))
def test_selection(seed: int, frames: int, grid: tuple[int, int], share: float) -> None:
    kind: oracle.PoolKind = "bilinear" if seed % 2 else "average"
    tokens = random_tokens(seed, frames, grid, kind, torch.float64)
    x = oracle.pool_features(tokens.features.numpy(), grid, kind)
    budget = x.shape[1] + round(share * (frames - 1) * x.shape[1])
    kept = EfficientVideoSampling().compress(tokens, budget)
    assert flat(kept) == straight_line(x, budget)
    assert_close(kept.features, x.reshape(-1, x.shape[2])[flat(kept)], "float64")


@pytest.mark.parametrize(("ratio", "counts"), [(0.1, GOLDEN_TENTH), (0.25, GOLDEN_QUARTER)])
def test_golden(ratio: float, counts: list[int]) -> None:
    budget = TokenBudget(round(ratio * 6272), ratio)
    kept = EfficientVideoSampling(paper_exact=True).compress(golden_tokens(torch.float64), budget)
    assert torch.bincount(kept.frame.long(), minlength=32).tolist() == counts
    assert flat(kept) == sorted(flat(kept))


def test_the_published_count_is_cut_off() -> None:
    """15 % of 6272 is 940.8."""
    tokens, budget = golden_tokens(), TokenBudget(941, 0.15)
    assert len(EfficientVideoSampling(paper_exact=True).compress(tokens, budget).features) == 940
    assert len(EfficientVideoSampling().compress(tokens, budget).features) == 941


def test_less_than_the_first_frame_is_refused_or_raised_to_it() -> None:
    tokens = random_tokens(0, 4, (6, 6), "average")
    with pytest.raises(BudgetError, match=r"8 of 36 tokens are too few for the whole first frame .* --ratio 0\.25"):
        EfficientVideoSampling().compress(tokens, 8)
    assert flat(EfficientVideoSampling(paper_exact=True).compress(tokens, 8)) == list(range(9))


def test_the_first_frame_is_the_key_of_the_video() -> None:
    assert EfficientVideoSampling().compress(random_tokens(0, 4, (6, 6), "average"), 20).clips == (Clip(0, 4),)


def test_only_what_changed_follows_the_first_frame() -> None:
    tokens = random_tokens(3, 3, (6, 6), "average")
    features = tokens.features[:1].repeat(3, 1, 1)
    for patch in (0, 1, 6, 7):  # of the first pooled token
        features[2, patch] *= -1
    assert flat(EfficientVideoSampling().compress(replace(tokens, features=features), 10)) == [*range(9), 18]
