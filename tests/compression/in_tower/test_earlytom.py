"""EarlyTom in the tower and after it: golden values, and a straight-line program."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aot.compression.in_tower import tower_needs
from aot.compression.in_tower.earlytom import FrameMerger, merges, mixed, restored
from aot.compression.methods.earlytom import EarlyTom
from aot.compression.ops.local_windows import window_of_cells
from aot.compression.ops.streaming_segments import frame_similarity, streaming_segments
from aot.config.schema import EarlyTomConfig, TowerConfig
from aot.config.sources import resolve_config
from aot.errors import ConfigError
from aot.types import (
    Clip,
    CompressedTokens,
    FrameMerging,
    MergedFrames,
    Needs,
    Pooling,
    Role,
    SourceWeights,
    TokenBudget,
    VisualTokens,
)
from tests.support.frame_merging_oracle import cut, merged
from tests.support.golden_scenes import checksums, scene_features, scene_saliency
from tests.support.golden_tower import HEADS, WIDTH, TinyBlock, golden_states

# Golden values of stage I and II. A and B are as published, C is the default.
A, B, C = (
    FrameMerging((0,), 0.6, 8, 0.9, True), FrameMerging((0,), 0.3, 16, 0.9, True),
    FrameMerging((0,), 0.3, 16, 0.9, False),
)  # fmt: skip
OTHER = FrameMerging((0,), 0.35, 8, 0.9, True)


def left(merging: FrameMerging) -> VisualTokens:
    """The golden video after stage I."""
    x, saliency = torch.from_numpy(scene_features()), scene_saliency()
    merger = FrameMerger(merging, [0], 12)
    frames = merger.after(0, x)
    found = merger.found(tuple(map(float, range(12))))
    times = tuple(found.timestamps_s[mix[0][0]] for mix in found.sources)
    return VisualTokens(
        frames, (6, 6), Pooling("none"), times, {-1: merger.mixed(saliency, 0)}, merged_frames=found
    )  # fmt: skip


def places(kept: CompressedTokens) -> list[list[int]]:
    cell = kept.row.long() * 6 + kept.col.long()
    return [cell[kept.frame == frame].tolist() for frame in range(len(kept.timestamps_s))]


def test_golden_similarity_and_segments() -> None:
    similarity = frame_similarity(torch.from_numpy(scene_features()))
    assert float(similarity[1, 2]) == pytest.approx(0.9275476, rel=1e-6)
    assert float(similarity[0, 8]) == pytest.approx(0.3088599, rel=1e-6)
    assert checksums(scene_saliency()) == pytest.approx((520.2938, 248.3246), rel=1e-6)
    edges = {(0.6, 8): [0, 5, 9, 12], (0.3, 16): [0, 9, 12], (0.35, 8): [0, 6, 9, 12]}
    for (threshold, window), expected in edges.items():
        cuts = streaming_segments(similarity, threshold, window, 0.9)
        assert list(cuts) == [Clip(*edge) for edge in pairwise(expected)]


@pytest.mark.parametrize(
    ("merging", "sources", "segments", "frames", "saliency"),
    [
        (A, [0, {1: 0.5006161, 2: 0.4993839}, 4, 5, 6, 8, 9, 10, 11], [0, 3, 6, 9], (997.3398, 461.642),
         (391.026, 182.1045)),
        (B, [0, {1: 0.5006161, 2: 0.4993839}, {3: 0.7413756, 4: 0.2586244}, {5: 0.5001374, 6: 0.4998626}, 8, 9, 10, 11],
         [0, 5, 8], (870.4938, 375.4045), (347.4175, 173.0702)),
        (C, [0, {1: 0.5006161, 2: 0.4993839}, {3: 0.7413756, 4: 0.2586244}, {5: 0.5001374, 6: 0.4998626}, 7, 8, 9, 10,
             11], [0, 6, 9], (999.5645, 462.1917), None),
    ],
    ids=["A", "B", "C"],
)  # fmt: skip
def test_golden_frames(
    merging: FrameMerging,
    sources: list[int | dict[int, float]],
    segments: list[int],
    frames: tuple[float, float],
    saliency: tuple[float, float] | None,
) -> None:
    tokens = left(merging)
    found = tokens.merged_frames
    assert found is not None and found.segments is not None
    expected = [{each: 1.0} if isinstance(each, int) else each for each in sources]
    assert [dict(mix) for mix in found.sources] == [pytest.approx(each, rel=1e-6) for each in expected]
    assert list(found.segments) == [Clip(*edges) for edges in pairwise(segments)]
    assert checksums(tokens.features) == pytest.approx(frames, rel=1e-6)
    if saliency:
        assert checksums(tokens.saliency[-1]) == pytest.approx(saliency, rel=1e-6)


KEPT = {
    "A": "1 2 3 7 8 | 7 8 16 23 29 | 0 7 22 23 28 | 0 7 23 28 29 | 7 13 21 23 29 | 6 7 22 27 28 | 7 20 21 22 26 | "
         "7 11 20 26 33 | 5 7 19 20 26",
    "B": "1 2 3 4 7 8 | 7 8 16 23 29 | 7 8 16 23 29 | 7 13 21 23 29 | 6 7 22 23 27 28 | 7 20 21 22 26 28 | "
         "7 11 20 26 33 | 5 7 19 20 21 26",
    "C": "1 2 3 7 8 | 7 8 16 23 29 | 7 8 16 23 29 | 7 13 21 23 29 | 7 16 21 27 | 6 7 22 27 28 | 7 20 21 22 26 | "
         "7 16 20 27 | 5 7 19 20 26",
}  # fmt: skip


@pytest.mark.parametrize(
    ("merging", "ratio", "total", "sums", "index_sum", "kept_places"),
    [
        (A, 0.1, 45, (134.2338, 51.57247), None, KEPT["A"]),
        (A, 0.25, 108, (378.9804, 168.231), None, None),
        (B, 0.1, 44, (121.834, 53.86916), 6332, KEPT["B"]),
        (B, 0.25, 112, (396.4526, 213.6431), 16216, None),
        (C, 0.1, 43, (108.9776, 51.52903), 6768, KEPT["C"]),
        (C, 0.25, 108, (374.8196, 183.5211), 17470, None),
        (OTHER, 0.1, 46, (104.2523, 37.01819), None, None),
        (OTHER, 0.25, 110, (321.8526, 177.9606), None, None),
    ],
)
def test_golden_tokens(
    merging: FrameMerging,
    ratio: float,
    total: int,
    sums: tuple[float, float],
    index_sum: int | None,
    kept_places: str | None,
) -> None:
    tokens = left(merging)
    method = EarlyTom(merging.threshold, merging.window, paper_exact=merging.paper_exact)
    kept = method.compress(tokens, TokenBudget(round(432 * ratio), ratio))
    assert len(kept.features) == total
    assert checksums(kept.features) == pytest.approx(sums, rel=1e-6)
    if index_sum:
        assert int(kept.cell.sum()) == index_sum
    if kept_places:
        assert places(kept) == [list(map(int, frame.split())) for frame in kept_places.split(" | ")]
    # The method alone finds the same segments in the features that it gets.
    alone = method.compress(replace(tokens, merged_frames=None), TokenBudget(total, ratio * 12 / len(tokens.features)))
    assert places(alone) == places(kept)


# The tiny tower


class Tower:
    """The golden tower, with the attention that each token receives in block 1 as a mean over queries."""

    def __init__(self, merging: FrameMerging) -> None:
        self.merger = FrameMerger(merging, merging.layers, 12)
        states = golden_states()
        for number in range(3):
            block = TinyBlock(number)
            if number == 1:
                received = self._received(block, states)
            states = self.merger.after(number, block(states))
        self.states, self.saliency = states, self.merger.mixed(received, 1)

    def _received(self, block: TinyBlock, states: Tensor) -> Tensor:
        normed = block.normalize(states)
        query, key = (block.project(normed, m).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in range(2))
        logits = query @ key.mT * (WIDTH // HEADS) ** -0.5
        return logits.softmax(-1).mean((1, 2))

    def tokens(self) -> VisualTokens:
        found = self.merger.found(tuple(map(float, range(12))))
        times = tuple(found.timestamps_s[mix[0][0]] for mix in found.sources)
        return VisualTokens(self.states, (6, 6), Pooling("none"), times, {-1: self.saliency}, merged_frames=found)


@pytest.mark.parametrize(
    ("threshold", "window", "published", "frames", "segments", "sums", "saliency", "row", "total", "kept", "index"),
    [
        (0.6, 8, True, 9, [0, 3, 6, 9], (1215.82, 543.2688), (9, 4.218044), (1.464201, 0.8526755, 0.920601),
         108, (437.3291, 213.7935), 17242),
        (0.6, 8, False, 9, [0, 3, 6, 9], (1189.066, 530.1774), (9, 4.225562), (1.158493, 0.5082678, 0.3506545),
         108, (423.8444, 202.5881), 17244),
        (0.35, 16, True, 7, [0, 4, 7], (838.8118, 355.8267), (7, 3.135966), (1.274049, 0.6343693, 0.5785207),
         109, (392.3006, 224.3417), 13670),
        (0.35, 16, False, 7, [0, 4, 7], (844.5419, 359.7938), (7, 3.143529), (1.432609, 0.648839, 0.7664743),
         108, (392.2888, 208.6494), 13424),
    ],
)  # fmt: skip
def test_golden_tower(
    threshold: float,
    window: int,
    published: bool,
    frames: int,
    segments: list[int],
    sums: tuple[float, float],
    saliency: tuple[float, float],
    row: tuple[float, ...],
    total: int,
    kept: tuple[float, float],
    index: int,
) -> None:
    tower = Tower(FrameMerging((0, 1), threshold, window, 0.9, published))
    tokens = tower.tokens()
    assert tokens.merged_frames is not None and tokens.merged_frames.segments is not None
    assert len(tokens.features) == frames
    assert list(tokens.merged_frames.segments) == [Clip(*edges) for edges in pairwise(segments)]
    assert checksums(tokens.features) == pytest.approx(sums, rel=1e-6)
    assert checksums(tokens.saliency[-1]) == pytest.approx(saliency, rel=1e-6)
    assert tokens.features[1, 0, :3].tolist() == pytest.approx(row, rel=1e-6)
    found = EarlyTom(threshold, window, paper_exact=published).compress(tokens, TokenBudget(108, 0.25))
    assert len(found.features) == total
    assert checksums(found.features) == pytest.approx(kept, rel=1e-6)
    assert int(found.cell.sum()) == index


# A straight-line program


def picture(seed: int, frames: int, cells: int) -> np.ndarray:
    """A picture that changes slowly, with a jump."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(frames, cells, 6)) * rng.uniform(0.05, 0.5, size=(frames, 1, 1))
    found: np.ndarray = 1 + steps.cumsum(0) + (np.arange(frames) >= frames // 2)[:, None, None] * rng.normal(size=6)
    return found


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 14), st.floats(-0.2, 0.95), st.integers(2, 9), st.booleans())
def test_frames_of_a_straight_line_program(
    seed: int, frames: int, threshold: float, window: int, published: bool
) -> None:
    x = picture(seed, frames, 5)
    similarity = frame_similarity(torch.from_numpy(x))
    segments = streaming_segments(similarity, threshold, window, 0.9)
    assert [list(range(clip.first, clip.stop)) for clip in segments] == cut(x, threshold, window)
    found = list(merges(similarity.tolist(), segments, paper_exact=published))
    expected = merged(x, threshold, window, published=published)
    assert [dict(mix) for mix in found] == [pytest.approx(weights) for weights in expected]
    frames_left = [sum(weight * x[frame] for frame, weight in weights.items()) for weights in expected]
    np.testing.assert_allclose(mixed(torch.from_numpy(x), found).numpy(), frames_left, rtol=1e-9)


def published_count(share: float, per_frame: int, *, dynamic: bool) -> int:
    return math.ceil(per_frame * share) if dynamic else max(1, round(per_frame * share))


def selected(saliency: np.ndarray, count: int, *, dynamic: bool) -> list[int]:
    """The cells that a frame keeps."""
    cells = range(len(saliency))
    if dynamic or not count:
        return sorted(sorted(cells, key=lambda cell: (-saliency[cell], cell))[:count])
    kept, start = [], 0
    for run in range(count):
        length = len(saliency) // count + (run < len(saliency) % count)
        kept.append(max(range(start, start + length), key=lambda cell: (saliency[cell], -cell)))
        start += length
    return kept


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([(2, 3), (3, 5)]), st.floats(0.01, 0.99), st.booleans()
)
def test_tokens_of_a_straight_line_program(
    seed: int, frames: int, grid: tuple[int, int], ratio: float, published: bool
) -> None:
    per_frame = grid[0] * grid[1]
    x = picture(seed, frames, per_frame)
    # Few values, so that many are equal.
    saliency = np.random.default_rng(seed).integers(0, 5, size=(frames, per_frame)).astype(float)
    budget = max(1, min(round(ratio * frames * per_frame), frames * per_frame - 1))
    inner = [frame for segment in cut(x, 0.6, 8) for frame in segment[1:-1]]
    dynamic = [frame not in inner for frame in range(frames)]
    if published:
        counts = [published_count(ratio, per_frame, dynamic=each) for each in dynamic]
    else:
        counts = [budget // frames] * frames
        first_dynamic = sorted(range(frames), key=lambda frame: not dynamic[frame])
        for frame in first_dynamic[: budget % frames]:
            counts[frame] += 1
    expected = [selected(*each[:2], dynamic=each[2]) for each in zip(saliency, counts, dynamic, strict=True)]
    tokens = VisualTokens(
        torch.from_numpy(x), grid, Pooling("none"), tuple(map(float, range(frames))), {-1: torch.from_numpy(saliency)}
    )  # fmt: skip
    kept = EarlyTom(paper_exact=published).compress(tokens, TokenBudget(budget, ratio))
    cell = kept.row.long() * grid[1] + kept.col.long()
    assert [cell[kept.frame == frame].tolist() for frame in range(frames)] == expected
    assert published or len(kept.features) == budget


# What makes it EarlyTom


def test_a_sink_takes_one_token_of_a_static_frame() -> None:
    """Nine cells around a corner draw most of the attention; dynamic frames keep nothing else."""
    saliency = torch.ones(5, 81) + torch.rand(5, 81, generator=torch.Generator().manual_seed(0))
    sink = torch.tensor([0, 1, 2, 9, 10, 11, 18, 19, 20])
    saliency[:, sink] += 10
    tokens = VisualTokens(
        torch.ones(5, 81, 4), (9, 9), Pooling("none"), tuple(map(float, range(5))), {-1: saliency}
    )  # fmt: skip
    kept = EarlyTom().compress(tokens, 45)
    drawn = [int(torch.isin((kept.row * 9 + kept.col)[kept.frame == frame].long(), sink).sum()) for frame in range(5)]
    assert drawn == [9, 3, 3, 3, 9]
    assert list(kept.clips) == [Clip(0, 5)]


def test_windows_are_equally_long() -> None:
    assert window_of_cells(torch.tensor([3, 1, 10, 0]), 10).tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 2, 2, 2], [0] * 10, list(range(10)), [0] * 10,
    ]  # fmt: skip


def test_settings_and_preset() -> None:
    config = resolve_config({}, "methods/earlytom")
    assert EarlyTom(**config.methods["earlytom"]) == EarlyTom(paper_exact=True)
    with pytest.raises(ConfigError, match=r"layers must be block numbers such as 6,21,23, in .*, got '6;7'"):
        EarlyTomConfig(layers="6;7")
    for layers, expected in (("6,21,23", (6, 21, 23)), (6, (6,))):
        found = tower_needs(Needs(), TowerConfig("earlytom", earlytom=EarlyTomConfig(layers)))
        assert found.frame_merging == FrameMerging(expected, 0.6, 8, 0.9, False)


# Back to the frames of the video


def restored_tokens(role: Role = Role.KEPT, sources: SourceWeights | None = None) -> CompressedTokens:
    """Three tokens of three frames that are left of five: 0, 1 and 2 with weights, and 4; frame 3 was lost."""
    merged_frames = MergedFrames((((0, 1.0),), ((1, 0.25), (2, 0.75)), ((4, 1.0),)), (0.0, 1.0, 2.0, 3.0, 4.0))
    kept = CompressedTokens(
        torch.eye(3), torch.tensor([0, 1, 2], dtype=torch.int32), torch.zeros(3, dtype=torch.int32),
        torch.tensor([0, 1, 1], dtype=torch.int32), torch.full((3,), int(role), dtype=torch.uint8),
        torch.tensor([1.0, 1.0, 1.0]), (1, 2), (0.0, 1.0, 4.0), (Clip(0, 1), Clip(1, 3)), sources=sources,
    )  # fmt: skip
    assert merged_frames.left == (0, 1, 1, 1, 2)
    return restored(kept, merged_frames)


def test_tokens_have_the_place_of_the_first_frame_that_is_in_them() -> None:
    found = restored_tokens()
    assert found.frame.tolist() == [0, 1, 4]
    assert found.mass.tolist() == [1, 2, 1]
    assert found.role.tolist() == [Role.KEPT, Role.MERGED, Role.KEPT]
    assert found.role.dtype == torch.uint8
    assert found.timestamps_s == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert list(found.clips) == [Clip(0, 1), Clip(1, 5)]
    assert found.sources is None


def test_sources_are_tokens_of_all_frames() -> None:
    """The second token is a mean of frames 1 and 2, of which one is itself a mean; nothing is of frame 3."""
    sources = SourceWeights(
        3, torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 3, 5]), torch.tensor([1.0, 0.5, 0.5, 1.0]),
        source_mass=torch.arange(6.0),
    )  # fmt: skip
    found = restored_tokens(sources=sources).sources
    assert found is not None
    entries = zip(found.token.tolist(), found.source.tolist(), found.weight.tolist(), strict=True)
    assert sorted(entries) == [(0, 0, 1.0), (1, 0, 0.5), (1, 3, 0.125), (1, 5, 0.375), (2, 9, 1.0)]
    assert found.source_mass is not None
    assert found.source_mass.tolist() == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]


def test_it_is_a_choice_of_its_own() -> None:
    needs = tower_needs(Needs((3,)), TowerConfig("earlytom"))
    assert needs.saliency_layers == (3,)
    assert not needs.runs_tower_like(Needs((3,)))
    assert Needs.union([needs, tower_needs(Needs((4,)), TowerConfig("earlytom"))]).frame_merging == needs.frame_merging
    with pytest.raises(ValueError, match="one way of merging"):
        Needs.union([needs, Needs()])
