"""PruMerge against a straight-line program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.prumerge import PruMerge
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support import oracle

Array = oracle.Array
Token = tuple[int, Array, int]  # cell, features, mass


def fixed(attention: Array, count: int, plus: bool) -> list[int]:
    """`count` indices: the most attended, or with `plus` a quarter of them (rounded up) and even strides."""
    ranked = sorted(range(len(attention)), key=lambda i: -attention[i])
    outliers = (count + 3) // 4 if plus else count
    rest = sorted(ranked[outliers:])
    return sorted(ranked[:outliers] + [rest[k * len(rest) // (count - outliers)] for k in range(count - outliers)])


def outliers(attention: Array, plus: bool) -> list[int]:
    low, high = np.percentile(attention, [25, 75])
    share = sum(a > high + 1.5 * (high - low) for a in attention) / len(attention)
    kept = sorted(range(len(attention)), key=lambda i: -attention[i])[: int(len(attention) * share)]
    if plus and share:
        kept += [i for i in range(0, len(attention) - 1, max(1, int(int(1 / share) / 3))) if i not in kept]
    return kept


def absorb(x: Array, attention: Array, metric: Array, kept: list[int], neighbors: int) -> list[Token]:
    unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    tokens: list[Token] = []
    for i in kept:
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(unit[i] @ unit[j]))[:neighbors]
        tokens.append((i, x[i] + sum(attention[j] * x[j] for j in others), 1 + len(others)))
    dropped = [j for j in range(len(x)) if j not in kept]
    if dropped:
        total: Array = sum(attention[j] * x[j] for j in dropped)  # type: ignore[assignment]
        tokens.append((max(dropped, key=lambda j: attention[j]), total, len(dropped)))
    return tokens


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    rng = np.random.default_rng(seed)
    patches = grid[0] * grid[1]
    return VisualTokens(
        features=torch.from_numpy(rng.normal(size=(frames, patches, 5))),
        grid=grid,
        pool=Pooling(kind),
        timestamps_s=tuple(float(t) for t in range(frames)),
        saliency={-1: torch.from_numpy(rng.exponential(size=(frames, patches)))},
        keys={-1: torch.from_numpy(rng.normal(size=(frames, patches, 2, 3)))},
    )


def pooled(tokens: VisualTokens) -> tuple[Array, Array, Array]:
    """Features, attention that sums to 1 in each frame, and keys."""
    attention = pool(tokens.saliency[-1][..., None], tokens.grid, tokens.pool)[..., 0].numpy()
    x, metric = (
        pool(values, tokens.grid, tokens.pool).numpy() for values in (tokens.features, tokens.keys[-1].mean(2))
    )
    return x, attention / attention.sum(-1, keepdims=True), metric


def compare(kept: CompressedTokens, wanted: list[tuple[int, Token]]) -> None:
    assert kept.frame.tolist() == [t for t, _ in wanted]
    assert (kept.row * kept.grid[1] + kept.col).tolist() == [cell for _, (cell, _, _) in wanted]
    assert kept.mass.tolist() == [mass for _, (_, _, mass) in wanted]
    np.testing.assert_allclose(kept.features.numpy(), np.array([token for _, (_, token, _) in wanted]), atol=1e-12)


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.sampled_from([(4, 4), (6, 9), (10, 7)]),
    st.floats(0, 0.99),
    st.sampled_from(["bilinear", "average", "none"]),
    st.booleans(),
)
def test_any_budget(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind, plus: bool
) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = max(1, int(ratio * frames * rows * cols))
    x, attention, metric = pooled(tokens)
    wanted = []
    for t in range(frames):
        share = budget // frames + (t < budget % frames)
        if share:
            kept = fixed(attention[t], share - 1, plus)
            wanted += [(t, token) for token in absorb(x[t], attention[t], metric[t], kept, 32)]
    assert len(wanted) == budget
    compare(PruMerge(plus=plus).compress(tokens, budget), wanted)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_paper_exact_keeps_what_stands_out(seed: int, plus: bool) -> None:
    tokens = video(seed, 3, (14, 14), "none")
    x, attention, metric = pooled(tokens)
    kept = [outliers(attention[t], plus) for t in range(3)]
    wanted = [(t, token) for t in range(3) for token in absorb(x[t], attention[t], metric[t], kept[t], 32)]
    assert len({len(each) for each in kept}) > 1
    compare(PruMerge(plus=plus, paper_exact=True).compress(tokens, 1), wanted)


@pytest.mark.parametrize("plus", [False, True])
def test_paper_exact_where_nothing_stands_out(plus: bool) -> None:
    tokens = video(0, 2, (6, 6), "bilinear")
    level = VisualTokens(
        tokens.features, (6, 6), tokens.pool, tokens.timestamps_s, {-1: torch.ones(2, 36)}, keys=tokens.keys
    )
    kept = PruMerge(plus=plus, paper_exact=True).compress(level, 5)
    assert kept.mass.tolist() == [9, 9]
    assert torch.allclose(kept.features, pool(tokens.features, (6, 6), tokens.pool).mean(1))


def test_paper_exact_adds_at_most_the_grid_without_its_last_token() -> None:
    """A quarter of outliers and five for each of them: the published stride would be 0, its range ends one earlier."""
    tokens = video(0, 1, (6, 6), "none")
    saliency = torch.ones(1, 36)
    saliency[:, 3:12] = 50.0
    bright = VisualTokens(tokens.features, (6, 6), tokens.pool, tokens.timestamps_s, {-1: saliency}, keys=tokens.keys)
    kept = PruMerge(plus=True, spread_per_outlier=5, whiskers=0.5, paper_exact=True).compress(bright, 5)
    assert (kept.row * 6 + kept.col).tolist() == [*range(3, 12), 0, 1, 2, *range(12, 35), 35]
    assert kept.mass.tolist() == [33] * 35 + [1]  # the last one sums up what is dropped


def test_settings_and_preset() -> None:
    with pytest.raises(ConfigError, match="spread_per_outlier must be at least 1, got 0"):
        PruMerge(spread_per_outlier=0)
    config = resolve_config({}, "methods/prumerge")
    assert PruMerge(**config.methods["prumerge"]) == PruMerge(paper_exact=True)
