"""SimpleCluster against a straight-line program."""

from __future__ import annotations

import cmath

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kmeans_oracle import Array, kmeans

from aot.core.grid import pool, pooled_grid
from aot.errors import ConfigError
from aot.methods.simplecluster import SimpleCluster
from aot.settings import resolve_config
from aot.types import Pooling, VisualTokens


def turned(x: Array, t: int, row: int, col: int) -> Array:
    """One token of 12 channels: two pairs of channels for each axis, turned by 1 and 1 / 100 a step."""
    pairs = x[::2] + 1j * x[1::2]
    angles = [place * frequency for place in (t, row, col) for frequency in (1.0, 0.01)]
    pairs = pairs * np.array([cmath.exp(1j * angle) for angle in angles])
    return np.stack([pairs.real, pairs.imag], -1).reshape(-1)


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    features = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 12))
    times = tuple(float(t) for t in range(frames))
    return VisualTokens(torch.from_numpy(features), grid, Pooling(kind), times, saliency={})


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from([(4, 4), (6, 5)]),
    st.floats(0, 0.99),
    st.sampled_from(["bilinear", "average", "none"]),
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = max(1, int(ratio * frames * rows * cols))
    kept = SimpleCluster(iterations=6, seed=3).compress(tokens, budget)
    x = pool(tokens.features, grid, tokens.pool).flatten(0, 1).numpy()
    places = [(t, row, col) for t in range(frames) for row in range(rows) for col in range(cols)]
    keys = np.array([turned(token, *place) for token, place in zip(x, places, strict=True)])
    draws = torch.rand(budget, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    labels, distortion, rounds = kmeans(keys, budget, 6, draws)
    clusters = [[i for i in range(len(x)) if labels[i] == k] for k in range(budget)]
    clusters.sort(key=lambda members: sum(members) / len(members))
    np.testing.assert_allclose(kept.features.numpy(), [x[members].mean(0) for members in clusters], atol=1e-12)
    assert kept.mass.tolist() == [len(members) for members in clusters]
    assert kept.facts["iterations"] == rounds
    assert kept.facts["distortion"] == pytest.approx(distortion, abs=1e-9)
    found = zip(kept.frame.tolist(), kept.row.tolist(), kept.col.tolist(), strict=True)
    for place, members in zip(found, clusters, strict=True):
        assert places.index(place) in members


def test_the_same_look_far_away_is_another_cluster() -> None:
    """Without places all tokens would be the same."""
    features = torch.ones(8, 16, 12)
    tokens = VisualTokens(features, (4, 4), Pooling("none"), tuple(map(float, range(8))), saliency={})
    kept = SimpleCluster(theta=100.0).compress(tokens, 8)
    assert len(kept.features) == 8
    assert kept.mass.max() <= 64
    assert torch.allclose(kept.features, torch.ones(8, 12))


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match=r"theta must be at least 1, got 0.5; iterations must be at least 1, got 0"):
        SimpleCluster(theta=0.5, iterations=0)
    config = resolve_config({}, "methods/simplecluster")
    assert SimpleCluster(**config.methods["simplecluster"]) == SimpleCluster()
    assert config.token_budget(32, 196) == 627
