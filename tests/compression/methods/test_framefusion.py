"""FrameFusion's merging and pruning, before the language model, against a straight-line program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.framefusion import FrameFusion
from aot.types import Role, VisualTokens
from tests.support import oracle
from tests.support.flat_index import flat
from tests.support.golden_input import golden_tokens
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close


@dataclass
class Token:
    index: int
    feature: np.ndarray
    attention: float
    mass: int


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    tokens = random_tokens(seed, frames, grid, kind, torch.float64)
    return replace(tokens, saliency={-1: tokens.saliency[-2]})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))


def one_pass(rows: list[list[Token]], threshold: float, most: int) -> list[list[Token]]:
    """rows: the tokens of every place of the picture, in time order."""
    candidates = []
    for row in rows:
        for before, token in pairwise(row):
            similarity = cosine(before.feature, token.feature)
            if similarity >= threshold:
                candidates.append((-similarity, token.index))
    joining = {index for _, index in sorted(candidates)[:most]}
    merged = []
    for row in rows:
        runs: list[list[Token]] = []
        for token in row:
            if token.index in joining:
                runs[-1].append(token)
            else:
                runs.append([token])
        merged.append(
            [
                Token(
                    run[0].index,
                    np.mean([token.feature for token in run], axis=0),
                    float(np.mean([token.attention for token in run])),
                    sum(token.mass for token in run),
                )
                for run in runs
            ]
        )
    return merged


def straight_line(x: np.ndarray, attention: np.ndarray, budget: int, threshold: float) -> list[Token]:
    frames, per_frame = attention.shape
    rows = [
        [Token(t * per_frame + i, x[t, i], float(attention[t, i]), 1) for t in range(frames)] for i in range(per_frame)
    ]
    count = frames * per_frame
    while count > budget:
        rows = one_pass(rows, threshold, count - budget)
        before, count = count, sum(len(row) for row in rows)
        if before == count or before - count < 0.1 * before:
            break
    tokens = sorted((token for row in rows for token in row), key=lambda token: (-token.attention, token.index))
    return sorted(tokens[:budget], key=lambda token: token.index)


@given(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.sampled_from([(5, 5), (6, 4)]),
    st.floats(0, 1),
    st.sampled_from([-1.0, 0.6, 0.9, 0.99]),
)
def test_against_the_straight_line(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, threshold: float
) -> None:
    kind: oracle.PoolKind = "bilinear" if seed % 2 else "average"
    tokens = video(seed, frames, grid, kind)
    x = oracle.pool_features(tokens.features.numpy(), grid, kind)
    attention = oracle.pool_features(tokens.saliency[-1].numpy()[..., None], grid, kind)[..., 0]
    budget = max(1, round(ratio * attention.size))
    expected = straight_line(x, attention, budget, threshold)
    assert len(expected) == budget
    for method in (FrameFusion.compress, FrameFusion._queued):
        kept = method(FrameFusion(threshold=threshold), tokens, budget)
        assert flat(kept) == [token.index for token in expected]
        assert kept.mass.tolist() == [token.mass for token in expected]
        assert_close(kept.features, [token.feature for token in expected], "float64")


@pytest.mark.parametrize("least_merged", [0.0, 0.02, 1.0])
def test_any_number_of_passes_can_be_queued(least_merged: float) -> None:
    tokens = video(3, 6, (5, 5), "average")
    method = FrameFusion(threshold=0.3, least_merged=least_merged)
    expected, found = method.compress(tokens, 3), method._queued(tokens, 3)
    assert flat(found) == flat(expected)
    assert dict(found.facts) == dict(expected.facts)


def test_a_still_video_becomes_its_first_frame() -> None:
    tokens = video(1, 1, (6, 6), "average")
    still = replace(
        video(1, 8, (6, 6), "average"), features=tokens.features.repeat(8, 1, 1), saliency={-1: torch.ones(8, 36)}
    )
    kept = FrameFusion().compress(still, 9)
    assert flat(kept) == list(range(9))
    assert kept.mass.tolist() == [8.0] * 9
    assert (kept.role == int(Role.MERGED)).all()
    assert_close(kept.features, oracle.pool_features(tokens.features.numpy(), (6, 6), "average")[0], "float64")
    assert kept.facts == {"merging_passes": 1, "pruned_tokens": 0}


def test_of_equally_similar_tokens_the_earlier_is_merged() -> None:
    tokens = video(1, 4, (6, 6), "average")
    still = replace(tokens, features=torch.ones_like(tokens.features))
    kept = FrameFusion().compress(still, 34)
    assert flat(kept) == [*range(9), *range(11, 36)]


def test_enough_merging_means_no_pruning() -> None:
    kept = FrameFusion(threshold=-1.0).compress(golden_tokens(), 627)
    assert kept.facts == {"merging_passes": 1, "pruned_tokens": 0}
    assert kept.mass.sum() == 6272


def test_without_merging_the_most_attended_remain() -> None:
    tokens = video(5, 4, (6, 6), "average")
    kept = FrameFusion(threshold=1.0).compress(tokens, 11)
    attention = oracle.pool_features(tokens.saliency[-1].numpy()[..., None], (6, 6), "average").flatten()
    assert flat(kept) == sorted(oracle.largest(attention, 11))
    assert kept.facts == {"merging_passes": 1, "pruned_tokens": 25}
    assert (kept.mass == 1).all()
