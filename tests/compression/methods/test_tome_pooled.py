"""ToMe on pooled tokens against a straight-line program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.tome_pooled import PooledTokenMerging
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import Pooling, Role, VisualTokens
from tests.support import oracle

Array = oracle.Array
Group = tuple[int, list[int]]  # the cell of a token, and all tokens it is made of


def mean(x: Array, members: list[int]) -> Array:
    found: Array = sum(x[i] for i in members) / len(members)
    return found


def straight_line(x: Array, share: int, merged_share: float) -> list[Group]:
    """One frame: a token is the mean of its members."""
    groups: list[Group] = [(i, [i]) for i in range(len(x))]
    while len(groups) > share:
        merges = min(max(1, int(len(groups) * merged_share)), len(groups) - share)
        tokens = [mean(x, members) for _, members in groups]
        unit = [token / np.linalg.norm(token) for token in tokens]
        pairs = []
        for a in range(0, len(groups), 2):
            similarity = {b: float(unit[a] @ unit[b]) for b in range(1, len(groups), 2)}
            best = max(similarity, key=lambda b: similarity[b])
            pairs.append((similarity[best], a, best))
        pairs.sort(key=lambda pair: -pair[0])
        for _, a, b in pairs[:merges]:
            groups[b][1].extend(groups[a][1])
        gone = {a for _, a, _ in pairs[:merges]}
        groups = [group for k, group in enumerate(groups) if k not in gone]
    return sorted(groups, key=lambda group: sum(group[1]) / len(group[1]))


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    features = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 5))
    times = tuple(float(t) for t in range(frames))
    return VisualTokens(torch.from_numpy(features), grid, Pooling(kind), times, saliency={})


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from([(4, 4), (6, 9), (10, 7)]),
    st.floats(0, 1),
    st.sampled_from([0.5, 0.3, 0.01]),
    st.sampled_from(["bilinear", "average", "none"]),
)
def test_any_budget(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, merged_share: float, kind: oracle.PoolKind
) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = max(1, round(ratio * frames * rows * cols))
    kept = PooledTokenMerging(merged_share).compress(tokens, budget)
    x = pool(tokens.features, grid, tokens.pool).numpy()
    wanted = []
    for t in range(frames):
        share = budget // frames + (t < budget % frames)
        wanted += [(t, x[t], *group) for group in (straight_line(x[t], share, merged_share) if share else [])]
    assert kept.frame.tolist() == [t for t, _, _, _ in wanted]
    assert (kept.row * cols + kept.col).tolist() == [cell for _, _, cell, _ in wanted]
    assert kept.mass.tolist() == [len(members) for _, _, _, members in wanted]
    expected = [mean(frame, members) for _, frame, _, members in wanted]
    np.testing.assert_allclose(kept.features.numpy(), np.array(expected), atol=1e-12)


def test_the_sum_of_a_frame_is_kept() -> None:
    tokens = video(0, 3, (14, 14), "none")
    kept = PooledTokenMerging().compress(tokens, 60)
    total = torch.zeros(3, 5, dtype=torch.float64)
    total.index_add_(0, kept.frame.long(), kept.features * kept.mass[:, None])
    assert torch.allclose(total, tokens.features.sum(1))
    assert kept.facts["rounds"] == 4  # 196 to 98, 49, 25 and 20
    assert set(kept.role.tolist()) <= {Role.KEPT, Role.MERGED}


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match=r"merged_share must be in \(0, 0.5\], got 0.6"):
        PooledTokenMerging(0.6)
    config = resolve_config({}, "methods/tome-pooled")
    assert PooledTokenMerging(**config.methods["tome-pooled"]) == PooledTokenMerging()
