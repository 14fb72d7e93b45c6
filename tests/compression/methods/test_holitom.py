"""HoliTom's outer part against a straight-line program, the published counts, and what makes it what it is."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aot.compression.methods import build_method
from aot.compression.methods.holitom import HoliTom
from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.redundancy import most_saving_clips
from aot.config.schema import Config
from aot.errors import BudgetError, ConfigError
from aot.types import CompressedTokens, Pooling, Role, TokenBudget, VisualTokens
from tests.support import straight_peaks as straight
from tests.support.golden_input import golden_tokens
from tests.support.kept_tokens import cells_of

POOLINGS = [Pooling("bilinear"), Pooling("average"), Pooling("none")]
Emitted = tuple[int, float, np.ndarray]


def video(seed: int, frames: int, grid: tuple[int, int], pooling: Pooling) -> VisualTokens:
    """Scenes of random length; some patches drift within them, the others hardly, so that no two are equally alike."""
    rng = np.random.default_rng(seed)
    patches = grid[0] * grid[1]
    scene = np.cumsum(rng.random(frames) < 0.3)
    drift = rng.random((frames, patches, 1)) * np.where(rng.random((1, patches, 1)) < 0.5, 1, 0.01)
    features = rng.normal(size=(frames + 1, patches, 6))[scene] + drift * rng.normal(size=(frames, patches, 6))
    return VisualTokens(
        features=torch.from_numpy(features),
        grid=grid,
        pool=pooling,
        timestamps_s=tuple(map(float, range(frames))),
        saliency={-1: torch.from_numpy(rng.random((frames, patches)))},
    )


# The straight-line program


def segments_of(sigma: list[list[float]], per_frame: int, threshold: float) -> list[tuple[int, int]]:
    frames = len(sigma) + 1
    best: list[float] = [0.0]
    window = [0]
    for end in range(1, frames + 1):
        value, length = best[end - 1], 1
        for longer in range(2, end + 1):
            steps = range(end - longer, end - 1)
            same = sum(all(sigma[t][i] > threshold for t in steps) for i in range(per_frame))
            gain = best[end - longer] + (longer - 1) * same
            if gain > value:
                value, length = gain, longer
        best.append(value)
        window.append(length)
    found = []
    end = frames
    while end > 0:
        found.append((end - window[end], end))
        end -= window[end]
    return found[::-1]


def straight_line(
    x: np.ndarray, attention: np.ndarray, budget: int, ratio: float, threshold: float, published: bool
) -> tuple[list[tuple[int, int]], list[Emitted]]:
    """Segments, and (index, mass, features) of every token in order."""
    frames, n, _ = x.shape
    sigma = [[straight.cosine(x[t, i], x[t + 1, i]) for i in range(n)] for t in range(frames - 1)]
    segments = segments_of(sigma, n, threshold)
    static, least = [], []
    for first, stop in segments:
        low = {i: min((sigma[t][i] for t in range(first, stop - 1)), default=-math.inf) for i in range(n)}
        static.append({i for i in range(n) if low[i] > threshold})
        least.append(low)
    lengths = [stop - first for first, stop in segments]
    if not published:
        static = straight.released(static, least, lengths, n, budget)
    capacities = [c for s, w in zip(static, lengths, strict=True) for c in [len(s)] + [n - len(s)] * w]
    if published:
        share = min(ratio * frames * n / sum(capacities), 1)
        starts = np.cumsum([0] + [w + 1 for w in lengths]).tolist()
        shares = [round(c * share) if k in starts else math.ceil(c * share) for k, c in enumerate(capacities)]
    else:
        shares = straight.shared(budget, capacities)
    emitted: list[Emitted] = []
    take = iter(shares)
    for (first, stop), same in zip(segments, static, strict=True):
        emitted += static_tokens(x, first, stop, sorted(same), next(take))
        for t in range(first, stop):
            ranked = sorted((i for i in range(n) if i not in same), key=lambda i: (-attention[t, i], i))
            emitted += [(t * n + i, 1.0, x[t, i]) for i in sorted(ranked[: next(take)])]
    return segments, emitted


def static_tokens(x: np.ndarray, first: int, stop: int, positions: list[int], clusters: int) -> list[Emitted]:
    if clusters == 0:
        return []
    n, length = x.shape[1], stop - first
    means = [np.mean([x[t, i] for t in range(first, stop)], axis=0) for i in positions]
    centers = list(range(len(means)))
    if clusters < len(means):
        centers = sorted(straight.best_centers(means, clusters, min(7, clusters)))
    owner = straight.owners(means, centers)
    emitted = []
    for rank, c in enumerate(centers):
        others = [means[j] for j in range(len(means)) if owner[j] == rank and j != c]
        token = 0.6 * means[c] + 0.4 * np.mean(others, axis=0) if others else means[c]
        emitted.append((first * n + positions[c], float(length * (1 + len(others))), token))
    return emitted


def compared(kept: CompressedTokens, segments: list[tuple[int, int]], emitted: list[Emitted]) -> None:
    assert [(clip.first, clip.stop) for clip in kept.clips] == segments
    assert cells_of(kept) == [index for index, _, _ in emitted]
    assert kept.mass.tolist() == [mass for _, mass, _ in emitted]
    np.testing.assert_allclose(
        kept.features.numpy(), np.array([token for _, _, token in emitted]), rtol=1e-9, atol=1e-9
    )


@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([(4, 4), (5, 6), (7, 5)]),
    st.sampled_from(POOLINGS),
    st.floats(0.01, 0.99),
    st.booleans(),
)
def test_what_the_straight_line_program_keeps(
    seed: int, frames: int, grid: tuple[int, int], pooling: Pooling, share: float, published: bool
) -> None:
    tokens = video(seed, frames, grid, pooling)
    x = pool(tokens.features, grid, pooling).numpy()
    attention = pool(tokens.saliency[-1][..., None], grid, pooling).numpy()[..., 0]
    total = x.shape[0] * x.shape[1]
    budget = min(round(share * total), total - 1)
    assume(budget)  # a ratio that leaves none is refused
    threshold = 0.65 if budget / total <= 0.125 else 0.8
    kept = HoliTom(paper_exact=published).compress(tokens, TokenBudget(budget, share))
    compared(kept, *straight_line(x, attention, budget, share, threshold, published))
    assert published or len(kept.features) == budget


# Published counts


@pytest.mark.parametrize(
    ("budget", "threshold", "counts"), [(627, 0.65, [196, 196, 196]), (1568, 0.8, [383, 196, 196])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_counts(budget: int, threshold: float, counts: list[int], dtype: torch.dtype) -> None:
    tokens = golden_tokens(dtype)
    kept = HoliTom(paper_exact=True).compress(tokens, budget)
    assert kept.facts["static_similarity"] == threshold
    assert [(clip.first, clip.stop) for clip in kept.clips] == [(0, 18), (18, 27), (27, 32)]
    assert [int(((clip.first <= kept.frame) & (kept.frame < clip.stop)).sum()) for clip in kept.clips] == counts
    static = [int((kept.mass == len(clip)).sum()) for clip in kept.clips]
    assert static == [counts[0] if threshold < 0.7 else 185, 196, 196]
    assert kept.mass.sum() == 32 * 196  # nothing is dropped, as the shares are all 1
    assert len(HoliTom().compress(tokens, budget).features) == budget


def test_published_counts_follow_from_the_ratio_itself() -> None:
    """Seven frames of 35 cells, none static: ceil(35 * 0.23) = 9 each; the 56 tokens that 56.35 is rounded to are 8."""
    tokens = video(0, 7, (7, 5), Pooling("none"))
    method = HoliTom(static_similarity=1.0, paper_exact=True)
    assert len(method.compress(tokens, TokenBudget(56, 0.23)).features) == 7 * 9
    assert len(method.compress(tokens, 56).features) == 7 * 8


# What makes it HoliTom


def test_a_still_scene_becomes_one_set_of_means() -> None:
    tokens = video(0, 1, (6, 6), Pooling("none"))
    still = VisualTokens(
        tokens.features.expand(8, -1, -1), (6, 6), tokens.pool, tuple(map(float, range(8))),
        {-1: tokens.saliency[-1].expand(8, -1)},
    )  # fmt: skip
    kept = HoliTom().compress(still, 36)
    assert cells_of(kept) == list(range(36))
    assert (kept.mass == 8).all()
    assert (kept.role == Role.MERGED).all()
    torch.testing.assert_close(kept.features, tokens.features[0])


def test_a_cut_separates_segments_and_their_static_tokens() -> None:
    one, other = torch.eye(9, 12, dtype=torch.float64), torch.eye(9, 12, dtype=torch.float64).flip(1)
    features = torch.stack([one, one, one, other, other])
    tokens = VisualTokens(features, (3, 3), Pooling("none"), (0.0,) * 5, {-1: torch.rand(5, 9)})
    kept = HoliTom().compress(tokens, 18)
    assert [(clip.first, clip.stop) for clip in kept.clips] == [(0, 3), (3, 5)]
    assert kept.frame.tolist() == [0] * 9 + [3] * 9
    assert kept.mass.tolist() == [3.0] * 9 + [2.0] * 9


def test_more_than_averaging_leaves_is_paid_with_the_least_similar() -> None:
    """Two positions change a little, position 4 more than 1: it becomes dynamic first."""
    features = torch.eye(9, 12, dtype=torch.float64).repeat(4, 1, 1)
    features[1::2, 1, 11], features[1::2, 4, 11] = 0.1, 0.3
    tokens = VisualTokens(features, (3, 3), Pooling("none"), (0.0,) * 4, {-1: torch.rand(4, 9)})
    dynamic = [set(cells_of(HoliTom().compress(tokens, budget))) - set(range(9)) for budget in (9, 12, 15)]
    assert [{cell % 9 for cell in each} for each in dynamic] == [set(), {4}, {1, 4}]


def brute_force(alike: np.ndarray) -> int:
    """The most tokens that any segmentation saves."""
    frames = len(alike) + 1
    best = 0
    for cuts in range(2 ** (frames - 1)):
        edges = [0, *(k + 1 for k in range(frames - 1) if cuts >> k & 1), frames]
        spans = list(pairwise(edges))
        best = max(best, sum((b - a - 1) * int(alike[a : b - 1].all(0).sum()) for a, b in spans))
    return best


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 8), st.floats(0.2, 1))
def test_no_segmentation_saves_more(seed: int, frames: int, positions: int, share: float) -> None:
    alike = np.random.default_rng(seed).random((frames - 1, positions)) < share
    clips = most_saving_clips(torch.from_numpy(alike))
    saved = sum((len(clip) - 1) * int(alike[clip.first : clip.stop - 1].all(0).sum()) for clip in clips)
    assert saved == brute_force(alike)
    assert [clip.first for clip in clips] == [0, *(clip.stop for clip in clips[:-1])]
    assert clips[-1].stop == frames


def test_segments_of_a_long_video_are_found_at_once() -> None:
    alike = torch.rand(255, 196, generator=torch.Generator().manual_seed(0)) < 0.97
    start = time.perf_counter()
    clips = most_saving_clips(alike)
    assert time.perf_counter() - start < 1
    assert clips[-1].stop == 256


def test_where_nothing_repeats_every_frame_is_its_own_segment() -> None:
    tokens = video(3, 6, (5, 5), Pooling("bilinear"))
    kept = HoliTom(static_similarity=1.0).compress(tokens, 12)
    assert [len(clip) for clip in kept.clips] == [1] * 6
    assert kept.frame.tolist() == [t for t in range(6) for _ in range(2)]
    assert (kept.mass == 1).all()


def test_all_tokens_where_all_are_asked_for() -> None:
    tokens = video(4, 3, (5, 5), Pooling("bilinear"))
    for published in (False, True):
        kept = HoliTom(paper_exact=published).compress(tokens, 27)
        assert torch.equal(kept.features, pool(tokens.features, (5, 5), tokens.pool).flatten(0, 1))
        assert kept.grid == pooled_grid((5, 5), tokens.pool)


def test_nothing_is_an_error_and_settings_are_checked() -> None:
    with pytest.raises(BudgetError, match="use --ratio"):
        HoliTom().compress(video(5, 3, (4, 4), Pooling("none")), 0)
    wrong = {"static_similarity": 1.5, "center_share": -0.1, "neighbors": 0}
    with pytest.raises(ConfigError) as raised:
        build_method(Config(method="holitom", methods={"holitom": wrong}))
    assert all(f"methods.holitom.{name}" in str(raised.value) for name in wrong)
