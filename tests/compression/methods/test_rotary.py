"""Rotary embedding of positions against a straight-line program, and its laws."""

from __future__ import annotations

import cmath

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.simplecluster import rotated_by_position

Array = np.ndarray


def straight_line(x: Array, grid: tuple[int, int], theta: float) -> Array:
    frames, count, width = x.shape
    third = width // 3
    turned = x.copy()
    for t in range(frames):
        for i in range(count):
            first = 0
            for step, channels in ((t, third + width % 3), (i // grid[1], third), (i % grid[1], third)):
                pairs = channels // 2
                for j in range(pairs):
                    c = first + 2 * j
                    z = complex(x[t, i, c], x[t, i, c + 1]) * cmath.exp(1j * step * theta ** (-j / pairs))
                    turned[t, i, c], turned[t, i, c + 1] = z.real, z.imag
                first += channels
    return turned


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([(1, 1), (2, 3), (4, 2)]), st.integers(1, 17))
def test_turns(seed: int, frames: int, grid: tuple[int, int], width: int) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], width))
    given_to = torch.from_numpy(x.copy())
    found = rotated_by_position(given_to, grid, 100.0)
    np.testing.assert_allclose(found.numpy(), straight_line(x, grid, 100.0), atol=1e-12)
    assert torch.equal(given_to, torch.from_numpy(x))
    assert torch.allclose(found.norm(dim=-1), given_to.norm(dim=-1))


def test_the_same_token_is_less_like_itself_elsewhere() -> None:
    x = torch.ones(6, 1, 48, dtype=torch.float64)
    similarity = rotated_by_position(x, (1, 1), 1e4)[:, 0] @ x[0, 0] / 48
    assert similarity[0] == 1
    assert (similarity[1:] < similarity[0]).all()
