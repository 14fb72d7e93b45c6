from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.aot.cells import KeptCells
from aot.compression.aot.inter_frame import ClipTransport, DistinctRule, transport_within_clips
from aot.compression.ops.products import take_rows
from aot.types import Clip
from tests.support import oracle
from tests.support.tolerances import assert_close

Array = oracle.Array

LENGTHS = [[4, 1, 7, 2], [1], [1, 1, 1], [9], [3, 3]]
QUANTILE = DistinctRule("quantile", level=0.3)


def video(lengths: Sequence[int], cells: int = 20, width: int = 8, seed: int = 0) -> tuple[Array, torch.Tensor]:
    """Tokens [F, n, D] that drift slowly, and a different number of kept cells in every frame."""
    rng, frames = np.random.default_rng(seed), sum(lengths)
    tokens = rng.normal(size=(cells, width)) + 0.3 * rng.normal(size=(frames, cells, width)).cumsum(0)
    kept = rng.random((frames, cells)) < rng.uniform(0.2, 1.0, size=(frames, 1))
    kept[np.arange(frames), rng.integers(cells, size=frames)] = True
    return tokens, torch.from_numpy(kept)


def clips_of(lengths: Sequence[int]) -> tuple[Clip, ...]:
    stops = np.cumsum(lengths).tolist()
    return tuple(Clip(stop - length, stop) for length, stop in zip(lengths, stops, strict=True))


def transport(
    tokens: Array, kept: torch.Tensor, clips: Sequence[Clip], rule: DistinctRule, **settings: Any
) -> ClipTransport:
    return moved_tokens(torch.from_numpy(tokens), kept, clips, rule, **settings)


def moved_tokens(
    tokens: torch.Tensor, kept: torch.Tensor, clips: Sequence[Clip], rule: DistinctRule, **settings: Any
) -> ClipTransport:
    """The result laid out as cells [F, n] and [C, n], with what is not kept as it was."""
    cells = KeptCells.build(kept)
    moved = transport_within_clips(take_rows(tokens, cells.index), cells.valid, clips, rule, **settings)
    keyframes = [clip.first for clip in clips]
    distinct, merged, mass = torch.zeros_like(kept), tokens[keyframes], torch.ones(len(clips), kept.shape[1])
    distinct[kept] = moved.distinct[cells.valid]
    merged[kept[keyframes]] = moved.merged[cells.valid[keyframes]]
    mass[kept[keyframes]] = moved.mass[cells.valid[keyframes]]
    return ClipTransport(distinct, merged, mass, moved.absorbed)


def kept_tokens(tokens: Array, kept: torch.Tensor, clip: Clip) -> list[Array]:
    return [tokens[f][kept[f].numpy()] for f in range(clip.first, clip.stop)]


def distinct_lists(moved: ClipTransport, kept: torch.Tensor, clip: Clip) -> list[list[int]]:
    """Per later frame, the distinct tokens as indices among the frame's kept ones, as the oracle numbers them."""
    return [moved.distinct[f][kept[f]].nonzero().flatten().tolist() for f in range(clip.first + 1, clip.stop)]


def assert_is_the_oracles(
    moved: ClipTransport, tokens: Array, kept: torch.Tensor, clips: Sequence[Clip], name: str, **settings: Any
) -> None:
    """Every clip equals the oracle's, run alone. settings: the oracle's; `counts` gives one count per frame."""
    counts = settings.pop("counts", None)
    for c, clip in enumerate(clips):
        rule = {} if counts is None else {"distinct_counts": counts[clip.first + 1 : clip.stop]}
        _, distinct, merged, mass, _ = oracle.inter_clip(kept_tokens(tokens, kept, clip), **settings, **rule)
        assert distinct_lists(moved, kept, clip) == distinct
        assert_close(moved.merged[c][kept[clip.first]], merged, name)
        assert_close(moved.mass[c][kept[clip.first]], mass, "float32")


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("lambda_inter", [1.0, 0.4])
@pytest.mark.parametrize("sigma_frames", [1.5, 4.0])
def test_clips_are_the_oracles_one_by_one(lengths: list[int], lambda_inter: float, sigma_frames: float) -> None:
    (tokens, kept), clips = video(lengths), clips_of(lengths)
    chosen = {"lambda_inter": lambda_inter, "sigma_frames": sigma_frames}
    moved = transport(tokens, kept, clips, QUANTILE, **chosen)
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", keep_ratio=0.3, **chosen)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_the_quantile_rule(level: float) -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=1), clips_of(LENGTHS[0])
    moved = transport(tokens, kept, clips, DistinctRule("quantile", level=level))
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", keep_ratio=level)


@pytest.mark.parametrize("level", [0.0, 0.2, 0.4, 0.8, 1.0])
def test_the_threshold_rule(level: float) -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=2), clips_of(LENGTHS[0])
    moved = transport(tokens, kept, clips, DistinctRule("threshold", level=level))
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", tau=level)


def test_a_token_at_the_threshold_is_not_distinct() -> None:
    """With one keyframe token every q is exactly 1."""
    tokens, kept = np.random.default_rng(11).normal(size=(2, 5, 4)), torch.ones(2, 5, dtype=torch.bool)
    kept[0, 1:] = False
    assert not transport(tokens, kept, clips_of([2]), DistinctRule("threshold", level=1.0)).distinct.any()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_count_rule(share: float) -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=3), clips_of(LENGTHS[0])
    counts = (kept.sum(1) * share).long()
    moved = transport(tokens, kept, clips, DistinctRule("count", counts=counts))
    later = [f for clip in clips for f in range(clip.first + 1, clip.stop)]
    assert moved.distinct.sum(1)[later].tolist() == counts[later].tolist()
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", counts=counts.tolist())


@pytest.mark.parametrize(("epsilon", "tolerance", "max_iterations"), [(0.03, 1e-2, 100), (0.1, 1e-6, 7)])
def test_transport_settings_arrive(epsilon: float, tolerance: float, max_iterations: int) -> None:
    (tokens, kept), clips = video([5, 3], seed=4), clips_of([5, 3])
    chosen = {"epsilon": epsilon, "tolerance": tolerance, "max_iterations": max_iterations}
    moved = transport(tokens, kept, clips, QUANTILE, **chosen)
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", keep_ratio=0.3, **chosen)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_lower_precision_decides_in_float64(dtype: torch.dtype, name: str) -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=5), clips_of(LENGTHS[0])
    rounded = torch.from_numpy(tokens).to(dtype)
    moved = moved_tokens(rounded, kept, clips, QUANTILE)
    assert moved.merged.dtype == dtype
    assert_is_the_oracles(moved, rounded.double().numpy(), kept, clips, name, keep_ratio=0.3)


def test_a_batch_is_its_clips() -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=6), clips_of(LENGTHS[0])
    together = transport(tokens, kept, clips, QUANTILE)
    for c, clip in enumerate(clips):
        part = slice(clip.first, clip.stop)
        alone = transport(tokens[part], kept[part], [Clip(0, len(clip))], QUANTILE)
        assert torch.equal(together.distinct[part], alone.distinct)
        assert_close(together.merged[c], alone.merged[0], "float64")
        assert_close(together.mass[c], alone.mass[0], "float32")


def test_keyframes_and_single_frames_have_nothing_distinct() -> None:
    (tokens, kept), clips = video([1, 3, 1]), clips_of([1, 3, 1])
    moved = transport(tokens, kept, clips, DistinctRule("threshold", level=2.0))
    assert not moved.distinct[[0, 1, 4]].any()
    assert torch.equal(moved.distinct[2:4], kept[2:4])
    assert torch.equal(moved.merged, torch.from_numpy(tokens)[[0, 1, 4]])  # nothing is absorbed
    assert moved.mass.eq(1).all()


def test_cells_that_are_not_kept_stay_out() -> None:
    (tokens, kept), clips = video(LENGTHS[0], seed=7), clips_of(LENGTHS[0])
    moved = transport(tokens, kept, clips, QUANTILE)
    disturbed = np.where(kept[..., None].numpy(), tokens, 1e3)
    again = transport(disturbed, kept, clips, QUANTILE)
    assert not (moved.distinct & ~kept).any()
    assert torch.equal(again.distinct, moved.distinct)
    for c, clip in enumerate(clips):
        own = kept[clip.first]
        assert torch.equal(moved.merged[c][~own], torch.from_numpy(tokens)[clip.first][~own])
        assert torch.equal(again.merged[c][own], moved.merged[c][own])
        assert moved.mass[c][~own].eq(1).all()


def test_the_input_stays_whole() -> None:
    (tokens, kept), clips = video([4, 2]), clips_of([4, 2])
    values, valid = torch.from_numpy(tokens), kept.clone()
    before = values.clone()
    transport_within_clips(values, valid, clips, QUANTILE)
    assert torch.equal(values, before)
    assert torch.equal(valid, kept)


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 12),
    st.sampled_from(["quantile", "threshold"]),
    st.floats(0, 1),
    st.sampled_from([1.0, 0.5]),
    st.integers(0, 2**32 - 1),
)
def test_mass_is_kept(lengths: list[int], cells: int, kind: Any, level: float, lambda_inter: float, seed: int) -> None:
    (tokens, kept), clips = video(lengths, cells, seed=seed), clips_of(lengths)
    moved = transport(tokens, kept, clips, DistinctRule(kind, level=level), lambda_inter=lambda_inter)
    for c, clip in enumerate(clips):
        later = slice(clip.first + 1, clip.stop)
        absorbed = (kept[later] & ~moved.distinct[later]).sum().item()
        own = kept[clip.first]
        assert_close(moved.mass[c][own].sum(), own.sum().item() + lambda_inter * absorbed, "float32")


# Fixed seeds: of a few tokens, now and then two q are equal but for what Sinkhorn left undone.
@pytest.mark.parametrize("seed", range(30))
def test_any_clips_are_the_oracles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, cells = rng.integers(1, 6, size=rng.integers(1, 5)).tolist(), int(rng.integers(1, 15))
    (tokens, kept), clips = video(lengths, cells, seed=seed), clips_of(lengths)
    counts = (kept.sum(1) // 2).tolist()
    moved = transport(tokens, kept, clips, DistinctRule("count", counts=torch.tensor(counts)))
    assert_is_the_oracles(moved, tokens, kept, clips, "inter", counts=counts)


@pytest.mark.parametrize("frames", [2, 6])
def test_duplicated_frames(frames: int) -> None:
    tokens, kept = video([1], cells=30, seed=8)
    tokens, kept = np.repeat(tokens, frames, axis=0), kept.repeat(frames, 1)
    clips = clips_of([frames])
    moved = transport(tokens, kept, clips, QUANTILE)
    assert_is_the_oracles(moved, tokens, kept, clips, "duplicates", keep_ratio=0.3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_tokens_that_are_all_the_same(scale: float) -> None:
    """All q tie: the quantile takes none, the count takes the lowest cells, and nothing changes by merging."""
    tokens, kept = np.full((3, 10, 4), scale), torch.ones(3, 10, dtype=torch.bool)
    by_quantile = transport(tokens, kept, clips_of([3]), QUANTILE)
    by_count = transport(tokens, kept, clips_of([3]), DistinctRule("count", counts=torch.tensor([0, 3, 2])))
    assert not by_quantile.distinct.any()
    assert [mask.nonzero().flatten().tolist() for mask in by_count.distinct] == [[], [0, 1, 2], [0, 1]]
    assert_close(by_quantile.merged / scale, np.ones((1, 10, 4)), "float64")


def test_equal_tokens_tie_and_the_first_is_distinct() -> None:
    """Frames of repeated tokens: equal tokens have equal q, wherever they stand in the frame."""
    rng = np.random.default_rng(9)
    for _ in range(100):
        sources, width, copies = rng.integers(2, 40), rng.integers(3, 65), rng.integers(3, 12)
        cells, kinds, count = max(sources, 3 * copies), rng.normal(size=(3, width)), int(rng.integers(1, copies))
        tokens, kept = np.zeros((2, cells, width)), torch.zeros(2, cells, dtype=torch.bool)
        tokens[0, :sources], tokens[1, : 3 * copies] = rng.normal(size=(sources, width)), np.tile(kinds, (copies, 1))
        kept[0, :sources], kept[1, : 3 * copies] = True, True
        moved = transport(tokens, kept, clips_of([2]), DistinctRule("count", counts=torch.tensor([0, count])))
        chosen = distinct_lists(moved, kept, Clip(0, 2))[0]
        assert chosen == [chosen[0] + 3 * k for k in range(count)]
        assert chosen[0] < 3


def test_blank_and_opposite_tokens() -> None:
    """Zero vectors have no direction; a token opposite to every keyframe token still has a best match."""
    (tokens, kept), clips = video([3], cells=6, seed=10), clips_of([3])
    kept = torch.ones_like(kept)
    tokens[0] = np.abs(tokens[0])
    tokens[1, 2], tokens[2, 4] = -tokens[0, 0], 0.0
    moved = transport(tokens, kept, clips, QUANTILE)
    assert_is_the_oracles(moved, tokens, kept, clips, "duplicates", keep_ratio=0.3)
