"""VQToken's codebook against a straight-line program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.vqtoken import VQToken
from aot.compression.ops.grid import cells_of_patches, pooled_grid
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support import oracle
from tests.support.kmeans_oracle import Array, kmeans


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    features = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 5))
    times = tuple(float(t) for t in range(frames))
    return VisualTokens(torch.from_numpy(features), grid, Pooling(kind), times, saliency={})


def clustered(tokens: VisualTokens, clusters: int, iterations: int) -> tuple[list[list[int]], float]:
    """The patches of every cluster, and the distortion."""
    x = tokens.features.flatten(0, 1).numpy()
    draws = torch.rand(clusters, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    labels, distortion, _ = kmeans(x, clusters, iterations, draws)
    return [[i for i in range(len(x)) if labels[i] == k] for k in range(clusters)], distortion


def compare(kept: CompressedTokens, tokens: VisualTokens, clusters: list[list[int]], x: Array) -> None:
    np.testing.assert_allclose(kept.features.numpy(), [x[members].mean(0) for members in clusters], atol=1e-12)
    per_patch = tokens.features.shape[1]
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    cells = cells_of_patches(tokens.grid, tokens.pool).tolist()
    assert kept.frame.tolist() == [members[0] // per_patch for members in clusters]
    assert (kept.row * cols + kept.col).tolist() == [cells[members[0] % per_patch] for members in clusters]
    sizes = np.array([len(members) for members in clusters])
    np.testing.assert_allclose(kept.mass.numpy(), sizes * rows * cols / per_patch, rtol=1e-6)


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from([(4, 4), (5, 7)]),
    st.floats(0, 0.99),
    st.sampled_from(["bilinear", "average", "none"]),
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = max(1, int(ratio * frames * rows * cols))
    x = tokens.features.flatten(0, 1).numpy()
    clusters, distortion = clustered(tokens, budget, 5)
    kept = VQToken(iterations=5).compress(tokens, budget)
    compare(kept, tokens, sorted(clusters), x)
    assert kept.facts["distortion"] == pytest.approx(distortion, abs=1e-9)
    exact = VQToken(iterations=5, paper_exact=True).compress(tokens, budget)
    compare(exact, tokens, clusters, x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("least", "most"), [(12, 32), (4, 9), (2, 3)])
def test_adaptive_length(seed: int, least: int, most: int) -> None:
    tokens = video(seed, 3, (4, 4), "none")
    curve = {k: clustered(tokens, k, 4)[1] for k in range(least, most + 1)}
    bends = [curve[k] - 2 * curve[k + 1] + curve[k + 2] for k in range(least, most - 1)]
    bend = bends.index(max(bends)) if bends else most - least - 1
    settings = {"length": "adaptive", "iterations": 4, "least_tokens": least, "most_tokens": most}
    kept = VQToken(**settings).compress(tokens, 40)  # type: ignore[arg-type]
    assert len(kept.features) == least + bend + 1
    exact = VQToken(**settings, paper_exact=True).compress(tokens, 1)  # type: ignore[arg-type]
    assert len(exact.features) == max(bend + 4, least)


def test_adaptive_keeps_no_more_than_the_budget() -> None:
    tokens = video(0, 2, (6, 6), "bilinear")
    for budget in (1, 5, 13):
        assert len(VQToken(length="adaptive").compress(tokens, budget).features) <= budget


def test_adaptive_finds_clouds() -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = torch.eye(6).repeat(2, 6, 1) + 0.02 * torch.randn(2, 36, 6, generator=generator)
    tokens = VisualTokens(clouds, (6, 6), Pooling("bilinear"), (0.0, 1.0), saliency={})
    kept = VQToken(length="adaptive", least_tokens=2, most_tokens=12).compress(tokens, 18)
    assert kept.facts["codebook"] == 6
    assert kept.frame.tolist() == [0] * 6
    assert kept.mass.tolist() == [12 / 4] * 6


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match="most_tokens must not be below least_tokens"):
        VQToken(most_tokens=11)
    config = resolve_config({}, "methods/vqtoken")
    assert VQToken(**config.methods["vqtoken"]) == VQToken(paper_exact=True)
    assert config.token_budget(32, 196) == 32
