"""FLoC against golden values and a straight-line program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods import floc
from aot.compression.methods.floc import FLoC
from aot.compression.ops.facility_location import pick_representatives, similarity_table
from aot.config.sources import resolve_config
from aot.types import CompressedTokens, Pooling, VisualTokens
from tests.support.flat_index import flat
from tests.support.golden_scenes import checksums, scene_tokens

KEPT = [20, 31, 40, 42, 47, 58, 63, 68, 71, 72, 85, 97, 116, 124, 134, 144, 193, 208, 211, 217, 222, 237, 238, 245, 248,
        266, 275, 277, 285, 295, 320, 327, 340, 343, 345, 348, 351, 358, 360, 373, 404, 425, 428]  # fmt: skip


def similarity(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    found: np.ndarray = unit @ unit.T
    return found


def greedy(x: np.ndarray, count: int) -> list[int]:
    """Compute every gain anew in every step, from whole numbers, since two tokens often have equal gains."""
    table = np.rint(similarity(x) * 2**21).astype(np.int64)
    best, picks = np.full(len(x), -(2**21)), list[int]()
    for _ in range(count):
        gains = [-1 if j in picks else int(np.maximum(table[:, j] - best, 0).sum()) for j in range(len(x))]
        picks.append(int(np.argmax(gains)))
        best = np.maximum(best, table[:, picks[-1]])
    return picks


def straight_line(x: np.ndarray, budget: int, block_frames: int) -> list[int]:
    frames, per_frame, width = x.shape
    blocks = [range(first, min(first + block_frames, frames)) for first in range(0, frames, block_frames)]
    ideal = [budget * len(block) / frames for block in blocks]
    counts = [int(share + 1e-9) for share in ideal]
    for b in sorted(range(len(blocks)), key=lambda b: -round(ideal[b] - counts[b], 9))[: budget - sum(counts)]:
        counts[b] += 1
    kept = []
    for block, count in zip(blocks, counts, strict=True):
        picks = greedy(x[block.start : block.stop].reshape(-1, width), count)
        kept += [block.start * per_frame + pick for pick in picks]
    return sorted(kept)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.sampled_from([(3, 3), (1, 5), (2, 4)]),
    st.floats(0, 0.99),
    st.integers(1, 8),
)
def test_any_budget(seed: int, frames: int, grid: tuple[int, int], ratio: float, block_frames: int) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, grid[0] * grid[1], 6)) + 0.3
    budget = max(1, int(ratio * frames * grid[0] * grid[1]))
    tokens = VisualTokens(torch.from_numpy(x), grid, Pooling("none"), tuple(map(float, range(frames))), {})
    kept = FLoC(block_frames).compress(tokens, budget)
    assert flat(kept) == straight_line(x, budget, block_frames)
    assert torch.equal(kept.features, tokens.features.flatten(0, 1)[flat(kept)])


def objective(kept: CompressedTokens) -> float:
    """The sum over all tokens of the similarity to the most similar kept token of their block."""
    x, index = scene_tokens().features.flatten(0, 1).numpy(), np.array(flat(kept))
    blocks = [np.arange(clip.first * 36, clip.stop * 36) for clip in kept.clips]
    return sum(float(similarity(x)[np.ix_(block, np.intersect1d(block, index))].max(1).sum()) for block in blocks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("budget", "block_frames", "value", "sums", "index_sum", "counts"),
    [
        (43, 4, 342.7113, (148.4031, 85.77596), 9351, [2, 7, 3, 3, 1, 3, 6, 4, 2, 7, 2, 3]),
        (43, 5, 350.0792, (135.2755, 64.28782), 9231, [2, 7, 3, 1, 5, 3, 3, 4, 7, 1, 3, 4]),
        (43, 32, 372.4651, (167.468, 65.39615), 8892, [5, 4, 3, 3, 2, 3, 5, 5, 7, 1, 3, 2]),
        (72, 4, 373.9357, (208.0176, 110.9205), 15612, None),
        (72, 32, 400.196, (231.9361, 122.1079), 16000, None),
    ],
)
def test_golden_tokens(
    budget: int,
    block_frames: int,
    value: float,
    sums: tuple[float, float],
    index_sum: int,
    counts: list[int] | None,
    dtype: torch.dtype,
) -> None:
    kept = FLoC(block_frames).compress(scene_tokens(dtype=dtype), budget)
    assert objective(kept) == pytest.approx(value, rel=1e-6)
    assert int(kept.cell.sum()) == index_sum
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    if counts:
        assert torch.bincount(kept.frame.long(), minlength=12).tolist() == counts
    if (budget, block_frames) == (43, 4):
        assert flat(kept) == KEPT


@pytest.mark.parametrize(
    ("frames", "picks"),
    [(4, [40, 116, 63, 71, 20, 72, 124, 85, 31, 134]), (12, [319, 264, 294, 33, 284, 217, 187, 321, 34, 63])],
)
def test_golden_picks(frames: int, picks: list[int]) -> None:
    x = scene_tokens().features[:frames].flatten(0, 1)
    assert pick_representatives(similarity_table(x[None]), 10).tolist() == [picks]


def test_equals_come_last_and_in_order() -> None:
    """Five tokens of two looks: one of each, the larger group first; the others gain nothing."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.0, 5.0]])
    assert pick_representatives(similarity_table(x[None]), 5).tolist() == [[1, 0, 2, 3, 4]]


def test_blocks_are_picked_from_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many fit in memory together."""
    tokens = scene_tokens()
    expected = flat(FLoC(2).compress(tokens, 50))
    monkeypatch.setattr(floc, "_TABLE_BYTES", 1)
    assert flat(FLoC(2).compress(tokens, 50)) == expected
    alone = VisualTokens(tokens.features[:2], tokens.grid, tokens.pool, (0.0, 1.0), {})
    assert flat(FLoC(2).compress(alone, 9)) == [index for index in expected if index < 72]


def test_the_preset_has_the_published_blocks() -> None:
    config = resolve_config({}, "methods/floc")
    assert FLoC(**config.methods["floc"]) == FLoC()
