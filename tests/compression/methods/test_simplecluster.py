"""SimpleCluster against golden values and a straight-line program."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.simplecluster import SimpleCluster, farthest_first, rotated_by_position
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import Pooling, VisualTokens
from tests.support import oracle
from tests.support.farthest_oracle import Array, farthest_kmeans
from tests.support.golden_scenes import checksums, scene_tokens


def turned(x: Array, t: int, row: int, col: int) -> Array:
    """One token of 14 channels: three pairs of them for the frame, two for the row and two for the column."""
    key = x.copy()
    for first, step, pairs in ((0, t, 3), (6, row, 2), (10, col, 2)):
        for j in range(pairs):
            c = first + 2 * j
            z = complex(x[c], x[c + 1]) * cmath.exp(1j * step * 10_000 ** (-j / pairs))
            key[c], key[c + 1] = z.real, z.imag
    return key


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    features = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 14))
    times = tuple(float(t) for t in range(frames))
    return VisualTokens(torch.from_numpy(features), grid, Pooling(kind), times, saliency={})


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from([(4, 4), (6, 5)]),
    st.floats(0, 0.99),
    st.sampled_from(["bilinear", "average", "none"]),
    st.integers(1, 6),
)
def test_any_budget(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind, iterations: int
) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = max(1, int(ratio * frames * rows * cols))
    kept = SimpleCluster(iterations=iterations, first_seed=3).compress(tokens, budget)
    x = pool(tokens.features, grid, tokens.pool).flatten(0, 1).numpy()
    cells = [(t, row, col) for t in range(frames) for row in range(rows) for col in range(cols)]
    keys = np.array([turned(token, *cell) for token, cell in zip(x, cells, strict=True)])
    labels, rounds = farthest_kmeans(keys, budget, iterations, min(3, len(x) - 1))
    clusters = sorted([i for i in range(len(x)) if labels[i] == k] for k in range(budget))
    np.testing.assert_allclose(kept.features.numpy(), [x[members].mean(0) for members in clusters], atol=1e-12)
    assert kept.mass.tolist() == [len(members) for members in clusters]
    assert kept.facts["iterations"] == rounds
    found = zip(kept.frame.tolist(), kept.row.tolist(), kept.col.tolist(), strict=True)
    assert [cells.index(cell) for cell in found] == [members[0] for members in clusters]


# The authors' program on the golden video, with token 0 as its first seed

FIRSTS = [0, 3, 6, 7, 8, 9, 11, 12, 13, 15, 16, 18, 19, 20, 21, 24, 25, 27, 28, 31, 32, 33, 34, 35, 51, 62, 73, 84, 85,
          88, 116, 124, 148, 151, 154, 159, 180, 185, 214, 303, 330, 335, 352]  # fmt: skip
SIZES = [24, 8, 10, 12, 15, 9, 9, 16, 11, 9, 6, 12, 16, 16, 6, 9, 6, 11, 6, 13, 8, 9, 11, 8, 7, 8, 13, 16, 11, 4, 7, 8,
         10, 10, 12, 13, 7, 11, 4, 6, 13, 6, 6]  # fmt: skip


def test_golden_keys_and_seeds() -> None:
    keys = rotated_by_position(scene_tokens().features, (6, 6), 10_000.0).flatten(0, 1)
    assert checksums(keys) == pytest.approx((540.7041, 259.9361), rel=1e-6)
    expected = [-0.8018572, 1.64171, -1.640823, -0.6385062, 1.329032, 0.6048701, 0.1142379, 1.227723]
    assert keys[100, :8].tolist() == pytest.approx(expected, rel=1e-6)
    seeds = farthest_first(keys / keys.norm(dim=-1, keepdim=True), 12).tolist()
    assert seeds == [0, 336, 187, 101, 94, 183, 334, 234, 293, 179, 328, 196]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("budget", "rounds", "sums", "row", "first_members", "largest"),
    [
        (43, 10, (118.0624, 53.18772), (1.365362, 0.7841653, 0.6739203, 1.310436), 3641, 24),
        (108, 4, (275.5858, 135.0868), (1.532159, 1.092089, 0.9598597, 1.501442), 15876, 11),
    ],
)
def test_golden_tokens(
    budget: int,
    rounds: int,
    sums: tuple[float, float],
    row: tuple[float, ...],
    first_members: int,
    largest: int,
    dtype: torch.dtype,
) -> None:
    kept = SimpleCluster().compress(scene_tokens(dtype=dtype), budget)
    assert kept.facts["iterations"] == rounds
    assert checksums(kept.features) == pytest.approx(sums, rel=2e-6)
    assert kept.features[0, :4].tolist() == pytest.approx(row, rel=1e-6)
    assert (int(kept.cell.sum()), int(kept.mass.max())) == (first_members, largest)
    if budget == 43:
        assert kept.cell.tolist() == FIRSTS
        assert kept.mass.tolist() == SIZES


@pytest.mark.parametrize(
    ("grid", "sums", "first_members"), [((4, 9), (119.7594, 53.32415), 4077), ((1, 36), (106.715, 44.92928), 4292)]
)
def test_golden_tokens_of_other_grids(grid: tuple[int, int], sums: tuple[float, float], first_members: int) -> None:
    kept = SimpleCluster().compress(scene_tokens(grid), 43)
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    assert int(kept.cell.sum()) == first_members


def test_another_first_seed_is_another_result() -> None:
    """The published first seed is rounding noise: 44 here in float64."""
    kept = SimpleCluster(first_seed=44).compress(scene_tokens(), 43)
    assert checksums(kept.features) == pytest.approx((126.4295, 56.0506), rel=1e-6)
    assert kept.facts["iterations"] == 7


# What makes it SimpleCluster


def test_the_same_look_far_away_is_another_cluster() -> None:
    """Without positions all tokens would be the same."""
    features = torch.ones(8, 16, 12)
    tokens = VisualTokens(features, (4, 4), Pooling("none"), tuple(map(float, range(8))), saliency={})
    kept = SimpleCluster(theta=100.0).compress(tokens, 8)
    assert len(kept.features) == 8
    assert kept.mass.max() <= 64
    assert torch.allclose(kept.features, torch.ones(8, 12))


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match=r"theta must be at least 1, got 0.5; iterations must be at least 1, got 0"):
        SimpleCluster(theta=0.5, iterations=0)
    with pytest.raises(ConfigError, match="first_seed must be at least 0, got -1"):
        SimpleCluster(first_seed=-1)
    config = resolve_config({}, "methods/simplecluster")
    assert SimpleCluster(**config.methods["simplecluster"]) == SimpleCluster()
    assert config.token_budget(32, 196) == 627
