"""Rotary embedding of places against a straight-line program, and its laws."""

from __future__ import annotations

import cmath

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.core.rotary import rotated_by_place

Array = np.ndarray


def straight_line(x: Array, grid: tuple[int, int], theta: float) -> Array:
    frames, count, width = x.shape
    pairs = [(width // 2 + 2 - axis) // 3 for axis in range(3)]
    turned = x.copy()
    for t in range(frames):
        for i in range(count):
            first = 0
            for place, own in zip((t, i // grid[1], i % grid[1]), pairs, strict=True):
                for j in range(own):
                    c = 2 * (first + j)
                    z = complex(x[t, i, c], x[t, i, c + 1]) * cmath.exp(1j * place * theta ** (-j / own))
                    turned[t, i, c], turned[t, i, c + 1] = z.real, z.imag
                first += own
    return turned


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([(1, 1), (2, 3), (4, 2)]), st.integers(1, 17))
def test_turns(seed: int, frames: int, grid: tuple[int, int], width: int) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], width))
    given_to = torch.from_numpy(x.copy())
    found = rotated_by_place(given_to, grid, 100.0)
    np.testing.assert_allclose(found.numpy(), straight_line(x, grid, 100.0), atol=1e-12)
    assert torch.equal(given_to, torch.from_numpy(x))
    assert torch.allclose(found.norm(dim=-1), given_to.norm(dim=-1))


def test_half_precision_is_turned_in_float32() -> None:
    x = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert torch.equal(rotated_by_place(x, (2, 2), 1e4), rotated_by_place(x.float(), (2, 2), 1e4))


def test_the_same_token_is_less_like_itself_elsewhere() -> None:
    x = torch.ones(6, 1, 48, dtype=torch.float64)
    similarity = rotated_by_place(x, (1, 1), 1e4)[:, 0] @ x[0, 0] / 48
    assert similarity[0] == 1
    assert (similarity[1:] < similarity[0]).all()
