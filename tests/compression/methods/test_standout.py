"""Standout against a straight-line program that takes one token after the other of the whole video."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.standout import Standout, distances, spread_gains
from aot.compression.ops.grid import pool
from aot.types import Pooling, VisualTokens


def video(features: np.ndarray, grid: tuple[int, int], dtype: torch.dtype = torch.float64) -> VisualTokens:
    times = tuple(float(t) for t in range(len(features)))
    return VisualTokens(torch.from_numpy(features).to(dtype), grid, Pooling("none"), times, {})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def straight_line(x: np.ndarray, budget: int, emphasis: float, novelty: float) -> list[int]:
    frames, cells, _ = x.shape
    mean = x.reshape(-1, x.shape[-1]).mean(0)
    weight = [[(1 - cosine(x[f, c], mean)) ** emphasis for c in range(cells)] for f in range(frames)]
    for f in range(1, frames):
        for c in range(cells):
            new = min(1 - cosine(x[f, c] - mean, last - mean) for last in x[f - 1])
            weight[f][c] *= min(max(new, 0.01), 1) ** novelty
    kept: list[tuple[int, int]] = []
    while len(kept) < budget:
        best = (-1.0, (0, 0))
        for f in range(frames):
            for c in range(cells):
                if (f, c) not in kept:
                    near = [1 - cosine(x[f, c] - mean, x[f, own] - mean) for g, own in kept if g == f]
                    gain = weight[f][c] * min([2.0, *near])
                    if gain > best[0]:
                        best = (gain, (f, c))
        kept.append(best[1])
    return sorted(f * cells + c for f, c in kept)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([(2, 3), (3, 3), (1, 4)]), st.floats(0, 1))
def test_the_tokens_of_a_straight_line_program(seed: int, frames: int, grid: tuple[int, int], share: float) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 5)) + 1
    budget = max(1, round(share * frames * grid[0] * grid[1]))
    for emphasis, novelty in ((1.0, 0.0), (2.0, 0.25), (2.0, 1.0)):
        kept = Standout(emphasis, novelty).compress(video(x, grid), budget)
        found = kept.frame.long() * grid[0] * grid[1] + kept.row.long() * grid[1] + kept.col.long()
        assert found.tolist() == straight_line(x, budget, emphasis, novelty)
        assert torch.equal(kept.features, torch.from_numpy(x).flatten(0, 1)[found])


def test_gains_never_increase() -> None:
    x = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0))
    found = distances(x, with_last=True)
    gains, cells = spread_gains(found.within, found.distinct**2, 60)
    assert (gains.diff(dim=1) <= 0).all()
    assert (cells.sort(-1).values == torch.arange(20)).all()


def test_a_thing_in_every_frame_before_anything_twice() -> None:
    """Two things of three tokens each on a plain ground, in each of four frames: one token of each comes first."""
    rng = np.random.default_rng(0)
    ground, one, other = (direction for direction in np.linalg.qr(rng.normal(size=(8, 8)))[0][:3])
    x = np.tile(ground, (4, 25, 1)) * 10 + 0.01 * rng.normal(size=(4, 25, 8))
    for frame in range(4):
        x[frame, [2, 3, 4]] += 10 * one
        x[frame, [12, 13, 17]] += 10 * other
    kept = Standout().compress(video(x, (5, 5)), 8)
    things = [(f, "one" if r == 0 else "other") for f, r in zip(kept.frame.tolist(), kept.row.tolist(), strict=True)]
    assert things == [(frame, thing) for frame in range(4) for thing in ("one", "other")]


def test_frames_that_repeat_the_last_one_keep_fewer() -> None:
    """Also if the repetition differs by rounding or by the noise of a codec."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 8)) + 1
    shown = np.concatenate([x[:1], x[:1], x[:1] * (1 + 1e-6), x[1:]])
    shown[1] += 1e-4 * rng.normal(size=shown[1].shape)
    counts = torch.bincount(Standout().compress(video(shown, (4, 4)), 20).frame.long(), minlength=4).tolist()
    assert max(counts[1:3]) < min(counts[0], counts[3])
    plain = torch.bincount(Standout(novelty=0).compress(video(shown, (4, 4)), 20).frame.long(), minlength=4).tolist()
    assert plain[1] > counts[1]


def test_pooled_as_the_model_does() -> None:
    x = torch.randn(2, 225, 6, generator=torch.Generator().manual_seed(1))
    tokens = VisualTokens(x, (15, 15), Pooling("bilinear", 2), (0.0, 1.0), {})
    kept = Standout().compress(tokens, 10)
    pooled = pool(x, (15, 15), tokens.pool)
    assert torch.equal(kept.features, pooled[kept.frame.long(), kept.row.long() * 8 + kept.col.long()])


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_nothing_stands_out(scale: float) -> None:
    kept = Standout().compress(video(np.full((3, 4, 2), scale), (2, 2)), 5)
    assert len(kept.features) == 5
