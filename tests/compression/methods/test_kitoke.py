"""KiToke against golden values and a straight-line program."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods import kitoke
from aot.compression.methods.kitoke import (
    KiToke,
    cut_strengths,
    densities,
    inclusion_probabilities,
    one_in_each,
    pivotal_sample,
)
from aot.compression.ops.clips import CutClips
from aot.compression.ops.source_weights import of_kept
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support.golden_scenes import checksums, scene_tokens

Array = np.ndarray
ABSOLUTE = {"bandwidth": 8.0, "cut_distance": 9.0, "cut_rise": 3.0}


def golden_draws(seed: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Fractions of multiples of the golden ratio in place of a generator's numbers."""
    return (torch.arange(1, count + 1, dtype=torch.float64) * 0.6180339887498949).frac().to(dtype)


@pytest.fixture(autouse=True)
def _golden_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kitoke, "draws", golden_draws)


# The straight-line program


def density(x: list[Array], bandwidth: float) -> list[float]:
    return [sum(math.exp(-float((a - b) @ (a - b)) / bandwidth) for b in x) for a in x]


def sampled(weight: list[float], budget: int) -> list[int]:
    """Pair by pair, on a list that shrinks."""
    active, left = set(range(len(weight))), budget
    p = [1.0] * len(weight)
    while True:
        total = sum(weight[i] for i in active)
        for i in active:
            p[i] = left * weight[i] / total
        full = {i for i in active if p[i] >= 1 - 1e-10}
        if not full:
            break
        for i in full:
            p[i] = 1.0
        active, left = active - full, left - len(full)
    used = 0
    while True:
        p = [0.0 if v <= 1e-7 else 1.0 if v >= 1 - 1e-7 else v for v in p]
        open_ = [i for i, v in enumerate(p) if 0 < v < 1]
        if len(open_) <= 1:
            break
        for a, b in zip(open_[::2], open_[1::2], strict=False):
            u, s = math.modf((used + 1) * 0.6180339887498949)[0], p[a] + p[b]
            used += 1
            if s <= 1:
                p[a], p[b] = (s, 0.0) if u < p[a] / s else (0.0, s)
            else:
                p[a], p[b] = (1.0, s - 1) if u < (1 - p[b]) / (2 - s) else (s - 1, 1.0)
    return sorted(sorted(range(len(p)), key=lambda i: (-p[i], i))[:budget])


def interval_starts(frames: Array, distance: float, rise: float, relative: float, budget: int) -> list[int]:
    change = [
        float(np.mean([np.linalg.norm(p - q) for p, q in zip(a, b, strict=True)]))
        + float(np.mean([min(np.linalg.norm(p - q) for q in b) for p in a]))
        for a, b in pairwise(frames)
    ]
    strength = []
    for t, own in enumerate(change):
        found = own / distance
        if 0 < t < len(change) - 1:
            near = (change[t - 1], change[t + 1])
            above = max(own - each for each in near)
            found = max(found, min(above / rise, max((own - each) / max(each, 1e-6) for each in near) / relative))
        strength.append(found)
    cuts = sorted((t for t in range(len(change)) if strength[t] > 1), key=lambda t: (-strength[t], t))
    return [0, *sorted(t + 1 for t in cuts[: budget - 1])]


def straight(
    x: Array, budget: int, scale: float = 1.3, relative: float = 0.4
) -> tuple[list[int], list[int], list[Array]]:
    """Return the starts of intervals, the kept indices and the merged tokens of x [F, n, D]."""
    frames, per_frame, _ = x.shape
    flat = list(x.reshape(frames * per_frame, -1))
    spread = float(np.mean([(a - b) @ (a - b) for a in flat for b in flat]))
    distance = scale * math.sqrt(spread)
    w = [1 / d for d in density(flat, 800 / 110**2 * distance**2)]
    starts = interval_starts(x, distance, distance * 70 / 110, relative, budget)
    interval = [sum(i // per_frame >= s for s in starts) - 1 for i in range(len(flat))]
    kept = sampled(w, budget)
    members = [[i for i in range(len(flat)) if interval[i] == k] for k in range(len(starts))]
    for of_interval in members:
        if not set(of_interval) & set(kept):
            rich = next(each for each in members if len(set(each) & set(kept)) > 1)
            kept.remove(min((i for i in kept if i in rich), key=lambda i: (w[i], -i)))
            kept = sorted([*kept, max(of_interval, key=lambda i: (w[i], -i))])
    group: dict[int, list[int]] = {k: [k] for k in kept}
    for i in range(len(flat)):
        if i not in group:
            near = [k for k in kept if interval[k] == interval[i]]
            cos = [float(flat[i] @ flat[k]) / np.linalg.norm(flat[i]) / np.linalg.norm(flat[k]) for k in near]
            group[near[int(np.argmax(cos))]].append(i)
    merged = [sum(w[i] * flat[i] for i in of_k) / sum(w[i] for i in of_k) for of_k in group.values()]
    return starts, kept, merged


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([(2, 3), (3, 3)]), st.floats(0, 0.95), st.integers(1, 3)
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, scenes: int) -> None:
    random = np.random.default_rng(seed)
    scene = np.arange(frames) * scenes // frames
    x = 2 * random.normal(size=(scenes, grid[0] * grid[1], 8))[scene] + random.normal(
        size=(frames, grid[0] * grid[1], 8)
    )
    budget = max(1, int(ratio * frames * grid[0] * grid[1]))
    tokens = VisualTokens(torch.from_numpy(x), grid, Pooling("none"), tuple(map(float, range(frames))), saliency={})
    kept = KiToke(scale=0.9).compress(tokens, budget)
    starts, cells, merged = straight(x, budget, scale=0.9)
    assert [clip.first for clip in kept.clips] == starts
    assert kept.cell.tolist() == cells
    np.testing.assert_allclose(kept.features.numpy(), merged, atol=1e-9)


# Golden values

KEPT = [7, 17, 28, 32, 47, 53, 59, 70, 73, 80, 99, 111, 112, 122, 134, 137, 151, 163, 174, 176, 196, 215, 221, 226, 238,
        248, 261, 279, 287, 300, 319, 325, 331, 342, 345, 364, 371, 383, 389, 404, 409, 420, 429]  # fmt: skip


def index_sum(kept: CompressedTokens) -> int:
    return int(kept.cell.sum())


@pytest.mark.parametrize(
    ("given_", "scales", "sums", "of_43", "of_108"),
    [
        (ABSOLUTE, (8, 9, 3), (8875.248, 4232.731), (9147, 109.9329, 54.85255), (22886, 370.8441, 183.2327)),
        (
            {},
            (3.763055, 7.544283, 4.800908),
            (1946.372, 924.8714),
            (9347, 107.7892, 61.13594),
            (23492, 370.546, 176.6444),
        ),
    ],
)
def test_golden_tokens(
    given_: dict[str, float],
    scales: tuple[float, ...],
    sums: tuple[float, ...],
    of_43: tuple[float, ...],
    of_108: tuple[float, ...],
) -> None:
    method, tokens = KiToke(**given_), scene_tokens()
    centered = tokens.features - tokens.features.mean((0, 1))
    found = method._scales(centered)
    assert [float(each) for each in found] == pytest.approx(scales, rel=1e-6)
    assert checksums(densities(centered.flatten(0, 1), found[0])) == pytest.approx(sums, rel=1e-6)
    for budget, expected in ((43, of_43), (108, of_108)):
        kept = method.compress(tokens, budget)
        assert (index_sum(kept), *checksums(kept.features)) == pytest.approx(expected, rel=1e-6)
        assert [(clip.first, clip.stop) for clip in kept.clips] == [(0, 5), (5, 9), (9, 12)]
        assert kept.facts["intervals"] == 3


def test_golden_steps() -> None:
    tokens, method = scene_tokens(), KiToke(**ABSOLUTE)
    flat = (tokens.features - tokens.features.mean((0, 1))).flatten(0, 1)
    density_ = densities(flat, torch.tensor(8.0))
    assert density_[[0, 7, 100]].tolist() == pytest.approx([10.16817, 15.06833, 14.59298], rel=1e-6)
    probability = inclusion_probabilities(1 / density_, 43)
    assert float(probability[0]) == pytest.approx(0.178416, rel=1e-5)
    assert checksums(probability)[1] == pytest.approx(20.36656, rel=1e-6)
    assert float(inclusion_probabilities(1 / density_, 108)[0]) == pytest.approx(0.4481145, rel=1e-6)
    changes = cut_strengths(tokens.features, torch.tensor(1.0), torch.tensor(1e9), 0.4)
    parts = [
        3.231474,
        3.231474,
        3.231474,
        3.231474,
        8.813307,
        3.230252,
        3.231474,
        3.231474,
        8.675396,
        3.16487,
        3.163631,
    ]
    assert changes.tolist() == pytest.approx(parts, rel=1e-6)
    kept = method.compress(tokens, 43)
    assert kept.cell.tolist() == KEPT
    assert kept.mass.max() == 26
    assert kept.features[0, :4].tolist() == pytest.approx([1.347257, 1.648256, 2.051351, 1.436528], rel=1e-6)


def test_golden_float32() -> None:
    assert KiToke(**ABSOLUTE).compress(scene_tokens(dtype=torch.float32), 43).cell.tolist() == KEPT


def test_golden_in_one_interval() -> None:
    kept = KiToke(bandwidth=8.0, cut_distance=100.0, cut_rise=100.0).compress(scene_tokens(), 43)
    assert checksums(kept.features) == pytest.approx((106.6673, 55.07025), rel=1e-6)


def test_golden_most_diverse() -> None:
    assert index_sum(KiToke(**ABSOLUTE, sampling="top").compress(scene_tokens(), 43)) == 8303


# Its parts


def test_probabilities_are_capped() -> None:
    weight = torch.tensor([10.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert inclusion_probabilities(weight, 3).tolist() == pytest.approx([1, 0.4, 0.4, 0.4, 0.4, 0.4], rel=1e-9)


def test_an_interval_without_a_token_gets_one() -> None:
    tokens = scene_tokens()
    weight = 1 / densities(tokens.features.flatten(0, 1), torch.tensor(8.0))
    random = golden_draws(0, 432, torch.float64, torch.device("cpu"))
    kept = pivotal_sample(inclusion_probabilities(weight, 4), random, 4)
    assert kept.tolist() == [53, 122, 238, 331]
    starts = torch.zeros(12, dtype=torch.bool).index_fill_(0, torch.tensor([0, 1, 5, 9]), True)
    clips = CutClips(starts)
    assert one_in_each(kept, weight, clips.number.repeat_interleave(36), clips).tolist() == [27, 53, 238, 331]


def test_several_intervals_without_a_token() -> None:
    """The first interval with several gives up its least token, of equal ones the later; then the next one does."""
    clips = CutClips(torch.ones(5, dtype=torch.bool))
    interval = torch.arange(5).repeat_interleave(4)
    weight = torch.tensor([9.0, 1, 1, 5, 3, 2, 7, 8, 1, 2, 2, 1, 1, 1, 1, 1, 4, 3, 2, 1])
    kept = torch.tensor([0, 1, 2, 5, 6])
    assert one_in_each(kept, weight, interval, clips).tolist() == [0, 6, 9, 12, 16]


def test_fewer_tokens_than_intervals() -> None:
    """The strongest cuts stay."""
    kept = KiToke(cut_distance=1.0).compress(scene_tokens(), 3)
    assert [clip.first for clip in kept.clips] == [0, 5, 9]
    assert kept.frame.tolist() == sorted(kept.frame.tolist())
    assert {0, 1, 2} == {sum(frame >= first for first in (5, 9)) for frame in kept.frame.tolist()}


def test_sources_weigh_by_diversity() -> None:
    tokens = scene_tokens()
    tokens = VisualTokens(tokens.features, tokens.grid, tokens.pool, tokens.timestamps_s, {}, traced=True)
    sources = of_kept(KiToke().compress(tokens, 43))
    assert sources.source.sort().values.tolist() == list(range(432))
    assert len(sources.weight.unique()) > 100


def test_the_seed_matters_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first, again, other = (KiToke(seed=seed).compress(scene_tokens(), 43).cell.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match="scale must be above 0, got 0"):
        KiToke(scale=0.0)
    config = resolve_config({}, "methods/kitoke")
    assert KiToke(**config.methods["kitoke"]) == KiToke()
    assert len(KiToke(paper_exact=True).compress(scene_tokens(), 43).features) == 43
