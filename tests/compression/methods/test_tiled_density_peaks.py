"""Density peaks in tiles: the same as those of one table of distances, whatever the size of a tile."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods import unified_stc as tiled


def straight_line(x: np.ndarray, clusters: int, neighbors: int) -> list[int]:
    count, width = x.shape
    distance = [[float(np.linalg.norm(a - b)) / math.sqrt(width) for b in x] for a in x]
    density = [math.exp(-sum(d * d for d in sorted(row)[:neighbors]) / neighbors) for row in distance]
    score = []
    for i in range(count):
        denser = [j for j in range(count) if (density[j], -j) > (density[i], -i)]
        far = min(distance[i][j] for j in denser) if denser else max(map(max, distance))
        score.append(density[i] * far)
    return sorted(range(count), key=lambda i: -score[i])[:clusters]


COUNT = st.integers(1, 25)
NEIGHBORS = st.sampled_from([1, 3, 4, 7, 25])  # with 2, those nearest to each other are equally dense but for rounding


@given(st.integers(0, 10**6), COUNT, COUNT, NEIGHBORS, st.sampled_from([1, 60, 10**6]))
def test_peaks(seed: int, count: int, clusters: int, neighbors: int, tile_elements: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, 3)) + 5
    clusters, neighbors = min(clusters, count), min(neighbors, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "_TILE_ELEMENTS", tile_elements)
        peaks = tiled.tiled_density_peaks(torch.from_numpy(x), clusters, neighbors)
        nearest = tiled.nearest_peak(torch.from_numpy(x), peaks)
    assert peaks.tolist() == straight_line(x, clusters, neighbors)
    assert nearest.tolist() == [int(np.argmin(np.linalg.norm(x[peaks.tolist()] - each, axis=-1))) for each in x]


def test_densities_do_not_underflow() -> None:
    """exp(-d^2) is zero everywhere here, in float64 too."""
    x = torch.tensor([[2000.0], [452.0], [350.0], [101.0], [0.0]])
    assert tiled.tiled_density_peaks(x, 5, 3).tolist() == [3, 2, 4, 1, 0]


def test_equal_peaks_are_each_their_own() -> None:
    x = torch.ones(4, 2)
    assert tiled.tiled_density_peaks(x, 3, 2).tolist() == [0, 1, 2]
    assert tiled.nearest_peak(x, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2, 0]


def test_counts_are_checked() -> None:
    with pytest.raises(ValueError, match="clusters: expected 1 to 4, got 5"):
        tiled.tiled_density_peaks(torch.ones(4, 2), 5, 1)
    with pytest.raises(ValueError, match="neighbors: expected 1 to 4, got 0"):
        tiled.tiled_density_peaks(torch.ones(4, 2), 1, 0)
