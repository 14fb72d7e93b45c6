"""K-means from far seeds against a straight-line program, its empty clusters and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.simplecluster import farthest_first, farthest_kmeans
from aot.compression.ops import kmeans as module
from tests.support.farthest_oracle import farthest_kmeans as straight_line
from tests.support.farthest_oracle import scaled, seeds


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4), st.floats(0, 1), st.integers(1, 8))
def test_clusters(seed: int, count: int, width: int, share: float, iterations: int) -> None:
    """Few channels, so that clusters run empty on the way."""
    x = np.random.default_rng(seed).normal(size=(count, width)) + 0.5
    clusters, first = max(1, round(share * count)), seed % count
    found = farthest_kmeans(torch.from_numpy(x), clusters, iterations=iterations, first_seed=first)
    labels, passed = straight_line(x, clusters, iterations, first)
    assert found.labels.tolist() == labels
    assert found.iterations == passed


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.floats(0, 1))
def test_clusters_of_points_that_repeat(seed: int, count: int, different: int, share: float) -> None:
    """Ties everywhere: which of equal points and centers wins is defined, and none is left empty."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(different, 3))[rng.integers(different, size=count)]
    clusters = max(1, round(share * count))
    found = farthest_kmeans(torch.from_numpy(x), clusters, iterations=5)
    assert found.labels.tolist() == straight_line(x, clusters, 5, 0)[0]
    assert found.sizes.min() > 0


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_seeds(seed: int, count: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    unit = [scaled(row) for row in x]
    assert farthest_first(torch.from_numpy(np.array(unit)), count, seed % count).tolist() == seeds(
        unit, count, seed % count
    )


def test_ties_do_not_hang_on_the_order_of_adding() -> None:
    """Symmetric points are as near to a center as to its mirror image, but for rounding, which devices do unlike."""
    generator = torch.Generator().manual_seed(3)
    part = torch.randn(20, 9, generator=generator)
    points = torch.cat([part, part.flip(1), part + part.flip(1)])
    found = farthest_kmeans(points, 30, iterations=10)
    for _ in range(4):
        order = torch.randperm(9, generator=generator)
        assert torch.equal(farthest_kmeans(points[:, order], 30, iterations=10).labels, found.labels)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(97, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = farthest_kmeans(points, 11, iterations=9)
    monkeypatch.setattr(module, "_TABLE_BYTES", 1000)
    assert torch.equal(whole.labels, farthest_kmeans(points, 11, iterations=9).labels)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="clusters: expected 1 to 4, got 5"):
        farthest_kmeans(torch.ones(4, 2), 5, iterations=1)
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        farthest_kmeans(torch.ones(4, 2), 2, iterations=0)
    with pytest.raises(ValueError, match="first_seed: expected 0 to 3, got 4"):
        farthest_kmeans(torch.ones(4, 2), 2, iterations=1, first_seed=4)
