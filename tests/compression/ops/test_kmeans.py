"""Cosine k-means against a straight-line program, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops import kmeans as module
from aot.compression.ops.kmeans import cluster_means, cosine_kmeans, seed_points
from tests.support.kmeans_oracle import kmeans, seeds


def draws(clusters: int, seed: int) -> list[float]:
    found: list[float] = torch.rand(
        clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).tolist()
    return found


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0, 1), st.integers(1, 8))
def test_clusters(seed: int, count: int, share: float, iterations: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, 4))
    clusters = max(1, round(share * count))
    found = cosine_kmeans(torch.from_numpy(x), clusters, iterations=iterations, seed=seed)
    labels, distortion, passed = kmeans(x, clusters, iterations, draws(clusters, seed))
    assert found.labels.tolist() == labels
    assert found.iterations == passed
    assert float(found.distortion) == pytest.approx(distortion, abs=1e-9)
    assert found.sizes.tolist() == [labels.count(k) for k in range(clusters)]
    assert found.firsts().tolist() == [labels.index(k) for k in range(clusters)]


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_seeds(seed: int, count: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    lots = draws(count, seed)
    found = seed_points(torch.from_numpy(unit), torch.tensor(lots, dtype=torch.float64))
    assert found.tolist() == seeds(unit, lots)


def test_clouds_are_found_and_far_seeds_are_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = torch.eye(5).repeat_interleave(40, 0) + 0.02 * torch.randn(200, 5, generator=generator)
    for seed in range(20):
        labels = cosine_kmeans(clouds, 5, iterations=20, seed=seed).labels.view(5, 40)
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == 5


@pytest.mark.parametrize("clusters", [1, 3, 9])
def test_no_cluster_is_empty_even_of_equal_points(clusters: int) -> None:
    found = cosine_kmeans(torch.ones(9, 2), clusters, iterations=3)
    assert found.sizes.min() == 1 if clusters > 1 else 9
    assert found.sizes.sum() == 9
    assert (found.similarity > 0.999).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(97, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = cosine_kmeans(points, 11, iterations=9)
    monkeypatch.setattr(module, "_TABLE_BYTES", 1000)
    parts = cosine_kmeans(points, 11, iterations=9)
    assert torch.equal(whole.labels, parts.labels)
    assert torch.allclose(whole.similarity, parts.similarity)
    assert torch.allclose(cluster_means(points, whole.labels, 11)[3], points[whole.labels == 3].mean(0))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="clusters: expected 1 to 4, got 5"):
        cosine_kmeans(torch.ones(4, 2), 5, iterations=1)
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        cosine_kmeans(torch.ones(4, 2), 2, iterations=0)
