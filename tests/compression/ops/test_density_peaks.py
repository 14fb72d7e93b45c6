"""Density peaks against a straight-line program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.density_peaks import density_peak_scores, density_peaks


def straight_line(x: np.ndarray, neighbors: int) -> list[float]:
    count, width = x.shape
    d = [[math.sqrt(float(((x[i] - x[j]) ** 2).sum())) / math.sqrt(width) for j in range(count)] for i in range(count)]
    density = [(math.exp(-sum(v * v for v in sorted(d[i])[:neighbors]) / neighbors), -i) for i in range(count)]
    far = max(max(row) for row in d)
    return [
        density[i][0] * min([d[i][j] for j in range(count) if density[j] > density[i]], default=far)
        for i in range(count)
    ]


@given(st.integers(0, 10**6), st.integers(2, 24), st.integers(1, 9))
def test_scores(seed: int, count: int, neighbors: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, count, 5))
    k = min(neighbors, count)
    found = density_peak_scores(torch.from_numpy(x), k)
    expected = np.array([straight_line(each, k) for each in x])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_one_center_in_each_cloud() -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randn(3, 1, 4, generator=generator) * 20 + torch.randn(3, 10, 4, generator=generator)
    centers = density_peaks(clouds.reshape(1, 30, 4), 3, 5)
    assert sorted((centers[0] // 10).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_tokens_are_one_peak(dtype: torch.dtype) -> None:
    """As in a still video: ten groups of twenty equal tokens have ten peaks, each a group's first token."""
    clouds = torch.randn(10, 1, 64, generator=torch.Generator().manual_seed(0), dtype=dtype).expand(10, 20, 64)
    centers = density_peaks(clouds.reshape(1, 200, 64), 10, 5)
    assert sorted(centers[0].tolist()) == list(range(0, 200, 20))


def test_equal_tokens_come_in_order() -> None:
    assert density_peaks(torch.ones(1, 6, 3), 3, 2)[0].tolist() == [0, 1, 2]
    assert torch.isfinite(density_peak_scores(torch.zeros(2, 1, 3), 1)).all()


def test_neighbors_are_checked() -> None:
    with pytest.raises(ValueError, match="neighbors: expected 1 to 4, got 5"):
        density_peak_scores(torch.zeros(1, 4, 3), 5)
