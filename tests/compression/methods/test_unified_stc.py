"""Unified spatiotemporal compression, before the language model, against a straight-line program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.unified_stc import UnifiedSpatiotemporal
from aot.types import Role, VisualTokens
from tests.support import oracle
from tests.support.flat_index import flat
from tests.support.golden_input import golden_tokens
from tests.support.synthetic_tokens import random_tokens
from tests.support.tolerances import assert_close

Kept = list[tuple[int, np.ndarray, int]]


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    tokens = random_tokens(seed, frames, grid, kind, torch.float64)
    return replace(tokens, saliency={-1: tokens.saliency[-2]})


def straight_line(x: np.ndarray, attention: np.ndarray, budget: int, threshold: float, share: float) -> Kept:
    """(index, feature, mass) of every token kept, for flat features and attention."""
    count, width = x.shape
    if budget >= count:
        return [(i, x[i], 1) for i in range(count)]
    clusters = round(share * budget)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    taken: list[int] = []
    ranking = oracle.largest(attention, count)
    for i in ranking:
        if len(taken) < budget - clusters and all(unit[i] @ unit[j] < threshold for j in taken):
            taken.append(i)
    for i in ranking:
        if len(taken) < budget - clusters and i not in taken:
            taken.append(i)
    kept: Kept = [(i, x[i], 1) for i in taken]
    if clusters == 0:
        return sorted(kept, key=lambda each: each[0])
    rest = [i for i in range(count) if i not in taken]
    squared = np.array([[((x[a] - x[b]) ** 2).sum() / width for b in rest] for a in rest])
    density = [np.exp(-np.mean(sorted(row)[:7])) for row in squared]
    score = []
    for a in range(len(rest)):
        denser = [squared[a, b] for b in range(len(rest)) if (density[b], -b) > (density[a], -a)]
        score.append(density[a] * np.sqrt(min(denser) if denser else squared.max()))
    centers = oracle.largest(score, clusters)
    members: dict[int, list[int]] = {center: [] for center in centers}
    for a in range(len(rest)):
        nearest = a if a in members else min(centers, key=lambda center: squared[a, center])
        members[nearest].append(rest[a])
    kept += [(rest[center], x[own].mean(0), len(own)) for center, own in members.items()]
    return sorted(kept, key=lambda each: each[0])


@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([(5, 5), (6, 4)]),
    st.floats(0, 1),
    st.sampled_from([0.2, 0.7, 0.95]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_against_the_straight_line(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, threshold: float, share: float
) -> None:
    kind: oracle.PoolKind = "bilinear" if seed % 2 else "average"
    tokens = video(seed, frames, grid, kind)
    x = oracle.pool_features(tokens.features.numpy(), grid, kind)
    attention = oracle.pool_features(tokens.saliency[-1].numpy()[..., None], grid, kind).flatten()
    budget = max(1, round(ratio * len(attention)))
    kept = UnifiedSpatiotemporal(threshold=threshold, recycled_share=share).compress(tokens, budget)
    expected = straight_line(x.reshape(len(attention), -1), attention, budget, threshold, share)
    assert flat(kept) == [index for index, _, _ in expected]
    assert kept.mass.tolist() == [mass for _, _, mass in expected]
    assert_close(kept.features, [feature for _, feature, _ in expected], "float64")


@pytest.mark.parametrize(("budget", "recycled"), [(125, 38), (627, 188), (1568, 470)])
def test_budgets_and_shares(budget: int, recycled: int) -> None:
    kept = UnifiedSpatiotemporal().compress(golden_tokens(), budget)
    assert len(kept.features) == budget
    assert kept.facts["recycled_tokens"] == recycled
    assert kept.facts["unlike_tokens"] + kept.facts["filled_tokens"] == budget - recycled  # type: ignore[operator]
    assert flat(kept) == sorted(set(flat(kept)))


def test_every_token_is_kept_or_recycled() -> None:
    tokens = video(3, 6, (6, 6), "average")
    kept = UnifiedSpatiotemporal().compress(tokens, 20)
    assert kept.mass.sum() == 54
    total = (kept.features * kept.mass[:, None]).sum(0)
    x = oracle.pool_features(tokens.features.numpy(), (6, 6), "average")
    assert_close(total, x.sum((0, 1)), "float64")
    assert ((kept.role == int(Role.MERGED)) == (kept.mass > 1)).all()


def test_all_alike_is_filled_up_by_attention() -> None:
    """One token is unlike the others only while there are none."""
    tokens = video(0, 4, (6, 6), "average")
    tokens = replace(tokens, features=torch.ones_like(tokens.features))
    kept = UnifiedSpatiotemporal(recycled_share=0.0).compress(tokens, 7)
    assert (kept.facts["unlike_tokens"], kept.facts["filled_tokens"]) == (1, 6)
    attention = oracle.pool_features(tokens.saliency[-1].numpy()[..., None], (6, 6), "average").flatten()
    assert flat(kept) == sorted(oracle.largest(attention, 7))
