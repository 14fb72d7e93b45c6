"""Bipartite soft matching against a straight-line program, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.soft_matching import match_pairs, merge_matched


def straight_line(x: np.ndarray, merges: int) -> tuple[list[int], list[int]]:
    """Where every token goes, and the even ones by falling similarity."""
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    best = []
    for a in range(0, len(x), 2):
        values = [(float(unit[a] @ unit[b]), -b) for b in range(1, len(x), 2)]
        value, b = max(values)
        best.append((-value, a, -b))
    target = list(range(len(x)))
    for _, a, b in sorted(best)[:merges]:
        target[a] = b
    return target, [a for _, a, _ in sorted(best)]


@given(st.integers(0, 10**6), st.integers(2, 21), st.floats(0, 1))
def test_matching_and_means(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    x, sizes = rng.normal(size=(2, count, 4)), rng.integers(1, 4, size=(2, count)).astype(float)
    merges = round(share * ((count + 1) // 2))
    matching = match_pairs(torch.from_numpy(x), merges)
    target = matching.target
    assert target.tolist() == [straight_line(each, merges)[0] for each in x]
    if merges:
        assert matching.ranked.tolist() == [straight_line(each, merges)[1] for each in x]
    values, total, index = merge_matched(torch.from_numpy(x), torch.from_numpy(sizes), target, merges)
    for b in range(2):
        remaining = [i for i in range(count) if target[b, i] == i]
        assert index[b].tolist() == remaining
        assert len(remaining) == count - merges
        for slot, i in enumerate(remaining):
            members = [j for j in range(count) if target[b, j] == i]
            weight = sum(sizes[b, j] for j in members)
            mean = sum(sizes[b, j] * x[b, j] for j in members) / weight
            np.testing.assert_allclose(values[b, slot], mean, atol=1e-12)
            assert total[b, slot] == weight


def test_the_weighted_sum_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    x, sizes = torch.randn(1, 16, 3, generator=generator, dtype=torch.float64), torch.ones(1, 16, dtype=torch.float64)
    values, total, _ = merge_matched(x, sizes, match_pairs(x, 8).target, 8)
    assert torch.allclose((values * total[..., None]).sum(1), x.sum(1))


def test_merges_are_checked() -> None:
    with pytest.raises(ValueError, match="merges: expected 0 to 2 of 4 tokens, got 3"):
        match_pairs(torch.zeros(1, 4, 2), 3)
    with pytest.raises(ValueError, match="expected 0 to 0 of 1"):
        match_pairs(torch.zeros(1, 1, 2), 1)
