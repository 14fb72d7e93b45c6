"""The walk down a ranking against a loop over its tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.unified_stc import admit_dissimilar


def straight_line(x: np.ndarray, threshold: float, most: int) -> list[int]:
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    admitted: list[int] = []
    for i in range(len(x)):
        if len(admitted) == most:
            break
        if all(float(unit[i] @ unit[j]) < threshold for j in admitted):
            admitted.append(i)
    return admitted


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(-0.9, 0.95), st.integers(0, 40))
def test_the_walk(seed: int, count: int, threshold: float, most: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    assert admit_dissimilar(torch.from_numpy(x), threshold, most).tolist() == straight_line(x, threshold, most)


@pytest.mark.parametrize(("threshold", "most"), [(0.7, 2000), (0.97, 2000), (0.97, 50)])
def test_across_blocks(threshold: float, most: int) -> None:
    x = np.random.default_rng(0).normal(size=(1300, 4))
    assert admit_dissimilar(torch.from_numpy(x), threshold, most).tolist() == straight_line(x, threshold, most)


def test_a_long_chain_settles() -> None:
    """Each is like its neighbors alone, so that every second one is admitted."""
    angle = torch.arange(300, dtype=torch.float64) * 0.01
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert admit_dissimilar(x, float(np.cos(0.015)), 300).tolist() == list(range(0, 300, 2))


def test_nothing_is_like_a_vector_of_zeros() -> None:
    assert admit_dissimilar(torch.zeros(3, 2), 0.5, 3).tolist() == [0, 1, 2]
