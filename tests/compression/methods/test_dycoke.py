"""DyCoke's reduction before the language model against a straight-line program and its golden values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.dycoke import DyCoke, compared_frames
from aot.errors import BudgetError, ConfigError
from aot.types import Clip
from tests.support import oracle
from tests.support.flat_index import flat
from tests.support.golden_input import golden_features, golden_tokens
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close


def least_similar(x: np.ndarray, frame: int, other: int, count: int) -> list[int]:
    """Flat indices of `count` tokens of `frame`, by ascending cosine with those of `other`."""
    similarity = [
        float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(x[frame], x[other], strict=True)
    ]
    return [frame * x.shape[1] + i for i in oracle.smallest(similarity, count)]


def published(x: np.ndarray, prune_rate: float) -> list[int]:
    frames, per_frame = x.shape[:2]
    count = int((1 - prune_rate) * per_frame)
    parts: dict[int, list[int]] = {}
    for t in range(0, frames - 1, 2):
        parts[t] = [t * per_frame + i for i in range(per_frame)]
        parts[t + 1] = least_similar(x, t + 1, t, count)
    for t in range(0, frames - 4, 4):
        parts[t + 2] = least_similar(x, t + 2, t, count)
    return [index for t in sorted(parts) for index in parts[t]]


def exact(x: np.ndarray, budget: int) -> list[int]:
    frames, per_frame = x.shape[:2]
    later = [t for t in range(frames) if t % 4]
    rest = budget - (frames - len(later)) * per_frame
    kept = []
    for t in range(frames):
        if t % 4 == 0:
            kept += [t * per_frame + i for i in range(per_frame)]
            continue
        count = rest // len(later) + (later.index(t) < rest % len(later))
        other = t - 1 if t % 2 else t - 2
        kept += least_similar(x, t, other, count) if count < per_frame else range(t * per_frame, (t + 1) * per_frame)
    return kept


@given(
    st.integers(0, 10**6), st.integers(2, 13), st.sampled_from([(5, 5), (6, 4)]), st.sampled_from([0.01, 0.3, 0.7, 1])
)
def test_published_selection(seed: int, frames: int, grid: tuple[int, int], prune_rate: float) -> None:
    kind: oracle.PoolKind = "bilinear" if seed % 2 else "average"
    tokens = random_tokens(seed, frames, grid, kind, torch.float64)
    x = oracle.pool_features(tokens.features.numpy(), grid, kind)
    kept = DyCoke(prune_rate=float(prune_rate), paper_exact=True).compress(tokens, 1)
    assert flat(kept) == published(x, prune_rate)


@given(st.integers(0, 10**6), st.integers(1, 13), st.floats(0, 1))
def test_exact_selection(seed: int, frames: int, share: float) -> None:
    tokens = random_tokens(seed, frames, (6, 6), "average", torch.float64)
    x = oracle.pool_features(tokens.features.numpy(), (6, 6), "average")
    whole = 9 * -(-frames // 4)
    budget = whole + round(share * (9 * frames - whole))
    kept = DyCoke().compress(tokens, budget)
    assert len(kept.features) == budget
    assert flat(kept) == exact(x, budget)
    assert_close(kept.features, x.reshape(-1, x.shape[2])[flat(kept)], "float64")
    assert kept.clips == Clip.runs(frames, 4)


@pytest.mark.parametrize(("prune_rate", "total"), [(0.3, 4915), (0.7, 3098)])
def test_golden(prune_rate: float, total: int) -> None:
    kept = DyCoke(prune_rate=prune_rate, paper_exact=True).compress(golden_tokens(), 627)
    assert len(kept.features) == total


def test_the_golden_video_without_ties() -> None:
    x = golden_features() + 0.1 * np.random.default_rng(0).normal(size=(32, 196, 16))
    tokens = golden_tokens(torch.float64)
    noisy = replace(tokens, features=torch.from_numpy(x))
    assert flat(DyCoke(paper_exact=True).compress(noisy, 1)) == published(x, 0.7)


def test_who_is_compared_with_whom() -> None:
    assert compared_frames(9) == [0, 0, 0, 2, 4, 4, 4, 6, 8]
    assert compared_frames(8, published=True) == [0, 0, 0, 2, 4, 4, 6, 6]
    assert compared_frames(1) == [0]


def test_retention_floors() -> None:
    """A quarter; as published 28.1 %, as the third frame of the last four stays whole."""
    tokens = random_tokens(0, 32, (6, 6), "average")
    assert len(DyCoke().compress(tokens, 72).features) == 72
    with pytest.raises(BudgetError, match=r"71 of 288 tokens are too few for dycoke.*--ratio 0\.25"):
        DyCoke().compress(tokens, 71)
    assert len(DyCoke(prune_rate=1.0, paper_exact=True).compress(tokens, 1).features) == 81


def test_a_single_frame() -> None:
    tokens = random_tokens(0, 1, (6, 6), "average")
    assert flat(DyCoke().compress(tokens, 9)) == list(range(9))
    with pytest.raises(BudgetError, match="set paper_exact to false"):
        DyCoke(paper_exact=True).compress(tokens, 9)


def test_everything_is_kept_in_raster_order() -> None:
    tokens = random_tokens(0, 6, (6, 6), "average")
    assert flat(DyCoke().compress(tokens, 54)) == list(range(54))


def test_rates_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"prune_rate must be in \(0, 1\]"):
        DyCoke(prune_rate=0.0)
