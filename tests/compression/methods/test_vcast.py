"""V-CAST against golden values and a straight-line program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.vcast import VCast, curvature, shares_by_weight, unusual_and_long
from aot.config.sources import resolve_config
from aot.types import Pooling, VisualTokens
from tests.support.flat_index import flat
from tests.support.golden_scenes import checksums, scene_tokens
from tests.support.oracle import smallest

KEPT = [0, 7, 11, 20, 27, 36, 63, 79, 99, 108, 135, 144, 145, 151, 153, 161, 171, 179, 181, 192, 193, 198, 205, 212,
        228, 241, 264, 270, 300, 313, 320, 327, 332, 335, 337, 354, 368, 373, 399, 400, 401, 404, 420]  # fmt: skip


def unit(v: np.ndarray) -> np.ndarray:
    return v / max(float(np.linalg.norm(v)), 1e-6)


def straight_line(x: np.ndarray, budget: int, *, published: bool) -> list[int]:
    """The kept tokens of `x` [F, n, D], with loops for everything."""
    frames, per_frame, _ = x.shape
    if published and frames == 1:
        return list(range(per_frame))
    total = max(budget, frames) if published else budget
    means = [unit(frame.mean(0)) for frame in x]
    turns = []
    for t in range(frames):
        before, after = (means[t] - means[t - 1], means[(t + 1) % frames] - means[t])
        turns.append(1.0 if t in (0, frames - 1) else 1 - float(unit(before) @ unit(after)))
    power = [math.exp(turn / 0.7) for turn in turns]
    least = 1 if total >= frames else 0
    ideal = [p / sum(power) * (total - least * frames) for p in power]
    counts = [least + min(math.floor(share), per_frame - least) for share in ideal]
    order = sorted(range(frames), key=lambda t: -(ideal[t] - math.floor(ideal[t])))
    while sum(counts) < total:
        for t in order:
            if counts[t] < per_frame and sum(counts) < total:
                counts[t] += 1
                if published:
                    break
    kept = []
    for t, frame in enumerate(x):
        norms = [float(np.linalg.norm(token)) for token in frame]
        low, high = min(norms), max(norms)
        scores = [
            1 - float(unit(token) @ means[t]) + (norm - low) / (high - low + 1e-6)
            for token, norm in zip(frame, norms, strict=True)
        ]
        kept += [t * per_frame + i for i in sorted(smallest(-np.array(scores), counts[t]))]
    return kept


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([(3, 4), (1, 1), (2, 2)]), st.floats(0, 1), st.booleans()
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, published: bool) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 7)) + 0.5
    budget = max(1, round(ratio * frames * grid[0] * grid[1]))
    tokens = VisualTokens(torch.from_numpy(x), grid, Pooling("none"), tuple(map(float, range(frames))), {})
    kept = VCast(paper_exact=published).compress(tokens, budget)
    assert flat(kept) == straight_line(x, budget, published=published)
    assert torch.equal(kept.features, tokens.features.flatten(0, 1)[flat(kept)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("budget", "published", "counts", "index_sum", "sums"),
    [
        (43, True, [5, 2, 2, 2, 7, 6, 2, 2, 3, 5, 2, 5], 9256, (235.5828, 123.3805)),
        (43, False, [6, 2, 2, 2, 4, 6, 2, 2, 3, 6, 2, 6], 9540, (236.3027, 95.17297)),
        (108, True, [15, 4, 4, 4, 10, 16, 4, 4, 12, 16, 4, 15], 24826, (417.0993, 216.8437)),
        (108, False, [15, 5, 5, 5, 10, 17, 4, 4, 8, 16, 4, 15], 24071, (389.1693, 138.2815)),
    ],
)
def test_golden_tokens(
    budget: int, published: bool, counts: list[int], index_sum: int, sums: tuple[float, float], dtype: torch.dtype
) -> None:
    kept = VCast(paper_exact=published).compress(scene_tokens(dtype=dtype), budget)
    assert torch.bincount(kept.frame.long(), minlength=12).tolist() == counts
    assert int(kept.cell.sum()) == index_sum
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    if budget == 43 and published:
        assert flat(kept) == KEPT


def test_golden_turns_and_weights() -> None:
    turns = curvature(unusual_and_long(scene_tokens().features)[1], 1e-4)
    expected = [1, 0.00284083, 0.002453437, 0.002089842, 0.6876304, 1.056307, 0.0009882065, 0.0008368483, 0.4533505,
                1.038212, 0.0007987943, 1]  # fmt: skip
    assert turns.tolist() == pytest.approx(expected, rel=1e-6)
    weights = [0.1497182, 0.03602603, 0.0360061, 0.0359874, 0.09582394, 0.1622589, 0.03593081, 0.03592304, 0.06856807,
               0.1581182, 0.03592109, 0.1497182]  # fmt: skip
    assert (turns / 0.7).softmax(0).tolist() == pytest.approx(weights, rel=1e-6)


def test_golden_shares() -> None:
    weights = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    assert shares_by_weight(90, weights, 36, one_at_a_time=True).tolist() == [36, 18, 9, 9, 9, 9]
    assert shares_by_weight(90, weights, 36).tolist() == [36, 11, 11, 11, 11, 10]


def test_fewer_tokens_than_frames() -> None:
    """As published every frame keeps one, whatever the budget."""
    counts = [
        torch.bincount(VCast(paper_exact=published).compress(scene_tokens(), 9).frame.long(), minlength=12).tolist()
        for published in (True, False)
    ]
    assert counts == [[1] * 12, [2, 0, 0, 0, 1, 2, 0, 0, 1, 2, 0, 1]]


def test_rounding_is_no_turn() -> None:
    """The means of equal frames differ in half precision by less than a step that counts."""
    means = torch.ones(5, 4) / 2 + 1e-5 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert curvature(means, 1e-4).tolist() == [1] * 5
    assert curvature(means, 0).tolist() != [1] * 5


def test_the_preset_is_published() -> None:
    config = resolve_config({}, "methods/vcast")
    assert VCast(**config.methods["vcast"]) == VCast(paper_exact=True)
