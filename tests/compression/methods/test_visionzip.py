"""VisionZip against a straight-line program and the golden values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods.visionzip import VisionZip
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.sources import resolve_config
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support import oracle
from tests.support.golden_input import golden_attention, golden_features, golden_tokens

Array = oracle.Array
KINDS: list[oracle.PoolKind] = ["bilinear", "average", "none"]


def straight_line(
    x: Array, attention: Array, metric: Array, share: int
) -> tuple[list[int], list[tuple[int, Array, int]]]:
    """One frame: its dominant indices, best first, and (index, token, mass) of what is kept, dominant tokens first."""
    dominant = share * 54 // 64
    by_attention = sorted(range(len(x)), key=lambda i: -attention[i])[:dominant]
    rest = [i for i in range(len(x)) if i not in by_attention]
    stride = max(1, len(rest) // (share - dominant))
    targets = rest[::stride][: share - dominant]
    unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    assigned: dict[int, list[int]] = {target: [] for target in targets}
    for i in rest:
        if i not in targets:
            similarity = [float(unit[i] @ unit[target]) for target in targets]
            assigned[targets[similarity.index(max(similarity))]].append(i)
    kept = [(i, x[i], 1) for i in sorted(by_attention)]
    for target, members in assigned.items():
        mean = sum(x[i] for i in members) / len(members) if members else 0
        kept.append((target, x[target] + mean, 1 + len(members)))
    return by_attention, kept


def video(seed: int, frames: int, grid: tuple[int, int], kind: oracle.PoolKind) -> VisualTokens:
    rng = np.random.default_rng(seed)
    patches = grid[0] * grid[1]
    return VisualTokens(
        features=torch.from_numpy(rng.normal(size=(frames, patches, 5))),
        grid=grid,
        pool=Pooling(kind),
        timestamps_s=tuple(float(t) for t in range(frames)),
        saliency={-1: torch.from_numpy(rng.random((frames, patches)))},
        keys={-1: torch.from_numpy(rng.normal(size=(frames, patches, 2, 3)))},
    )


def pooled(tokens: VisualTokens, values: torch.Tensor) -> Array:
    found: Array = pool(values, tokens.grid, tokens.pool).numpy()
    return found


def expected(tokens: VisualTokens, shares: list[int]) -> list[tuple[list[int], list[tuple[int, Array, int]]]]:
    x, metric = pooled(tokens, tokens.features), pooled(tokens, tokens.keys[-1].mean(2))
    attention = pooled(tokens, tokens.saliency[-1][..., None])[..., 0]
    return [straight_line(x[t], attention[t], metric[t], share) for t, share in enumerate(shares) if share]


def cells(kept: CompressedTokens) -> list[int]:
    return (kept.row * kept.grid[1] + kept.col).tolist()


def compare(kept: CompressedTokens, wanted: list[tuple[int, Array, int]]) -> None:
    assert cells(kept) == [cell for cell, _, _ in wanted]
    assert kept.mass.tolist() == [mass for _, _, mass in wanted]
    np.testing.assert_allclose(kept.features.numpy(), np.array([token for _, token, _ in wanted]), atol=1e-12)


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.sampled_from([(4, 4), (6, 9), (10, 7)]),
    st.floats(0, 1),
    st.sampled_from(KINDS),
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, kind: oracle.PoolKind) -> None:
    tokens = video(seed, frames, grid, kind)
    rows, cols = pooled_grid(grid, tokens.pool)
    budget = min(max(1, round(ratio * frames * rows * cols)), frames * rows * cols - 1)
    shares = [budget // frames + (t < budget % frames) for t in range(frames)]
    per_frame = [kept for _, kept in expected(tokens, shares)]
    if kind == "average":
        per_frame = [sorted(kept, key=lambda token: token[0]) for kept in per_frame]
    compare(VisionZip().compress(tokens, budget), [token for kept in per_frame for token in kept])


@pytest.mark.parametrize(("budget", "share"), [(60, 20), (62, 21), (1, 1)])
def test_paper_exact_gives_every_frame_the_same_number(budget: int, share: int) -> None:
    tokens = video(0, 3, (14, 14), "bilinear")
    kept = VisionZip(paper_exact=True).compress(tokens, budget)
    compare(kept, [token for _, frame in expected(tokens, [share] * 3) for token in frame])


def test_paper_exact_permutes_dominant_tokens_where_rows_are_kept() -> None:
    """Dominant tokens, in raster order, fill cells in the order of attention; sources say where they came from."""
    tokens = video(1, 2, (12, 12), "average")
    wanted, sources = [], []
    for number, (best, frame) in enumerate(expected(tokens, [13, 13])):
        taken = [*best, *(cell for cell, _, _ in frame[len(best) :])]
        for read, (cell, token, mass) in sorted(zip(taken, frame, strict=True), key=lambda pair: pair[0]):
            wanted.append((read, token, mass))
            sources.append(number * 36 + cell)
    exact = VisionZip(paper_exact=True).compress(replace(tokens, traced=True), 26)
    compare(exact, wanted)
    assert cells(exact)[:13] == sorted(cells(exact)[:13])
    assert exact.cell.tolist() != sources
    assert exact.sources is not None
    assert {*zip(exact.sources.token.tolist(), exact.sources.source.tolist(), strict=True)} >= {*enumerate(sources)}
    right = VisionZip().compress(tokens, 26)
    assert cells(right) == sorted(cells(right)[:13]) + sorted(cells(right)[13:])


def test_golden_values() -> None:
    features, attention = golden_features(), golden_attention()
    assert features.sum() == pytest.approx(30456.649852, abs=1e-6)
    assert attention.sum() == pytest.approx(32.001972854, abs=1e-9)
    np.testing.assert_allclose(features[5, 77, :3], [1.5159215, 1.7818201, 1.7239350], atol=5e-8)
    method = VisionZip(paper_exact=True)
    tokens = golden_tokens()
    kept = method.compress(replace(tokens, keys={-1: tokens.features[:, :, None]}), 20 * 32)
    assert len(kept.features) == 640
    first = cells(kept)[:20]
    assert first[:16] == [2, 3, 11, 12, 48, 49, 62, 63, 100, 101, 109, 110, 146, 147, 160, 161]
    rest = [i for i in range(196) if i not in first[:16]]
    assert first[16:] == rest[::45]
    assert kept.mass.sum() == 32 * 196


def test_the_preset_is_the_published_row() -> None:
    config = resolve_config({}, "methods/visionzip")
    assert config.token_budget(32, 196) == 640
    assert VisionZip(**config.methods["visionzip"]) == VisionZip(paper_exact=True)
