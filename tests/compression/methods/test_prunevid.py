"""PruneVid's stage A against a straight-line program, the published counts, and what makes it what it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_holitom import Emitted, compared, video

from aot.compression.methods import build_method
from aot.compression.methods.prunevid import PruneVid, settled_labels
from aot.compression.ops.clips import CutClips
from aot.compression.ops.grid import pool
from aot.compression.ops.redundancy import position_similarity
from aot.config.schema import Config
from aot.errors import BudgetError, ConfigError
from aot.types import Pooling, VisualTokens
from tests.support import straight_peaks as straight
from tests.support.golden_input import golden_tokens
from tests.support.kept_tokens import cells_of

POOLINGS = [Pooling("bilinear"), Pooling("average"), Pooling("none")]


# The straight-line program


def runs_of(labels: list[int]) -> list[tuple[int, int]]:
    edges = [k for k in range(len(labels) + 1) if k in (0, len(labels)) or labels[k] != labels[k - 1]]
    return list(pairwise(edges))


def settled(labels: list[int]) -> list[int]:
    """Frame by frame on an array that changes on the way; -1 is a freed frame."""
    result = [-1] * len(labels)
    for first, stop in runs_of(labels):
        longest = max(b - a for a, b in runs_of(labels) if labels[a] == labels[first])
        if stop - first == longest and longest > 1:
            result[first:stop] = labels[first:stop]
    for frame in range(len(result)):
        if result[frame] != -1:
            continue
        left = right = 0
        while left < frame and result[frame - 1 - left] == result[frame - 1]:
            left += 1
        start = frame
        while start < len(result) and result[start] == -1:
            start += 1
        while start + right < len(result) and result[start + right] == result[start]:
            right += 1
        result[frame] = 0 if left == right == 0 else result[frame - 1] if left >= right else result[start]
    return result


def mean_cosine(tokens: list[np.ndarray]) -> float:
    pairs = [straight.cosine(a, b) for i, a in enumerate(tokens) for j, b in enumerate(tokens) if i != j]
    return sum(pairs) / len(pairs) if pairs else -np.inf


def straight_line(
    x: np.ndarray, budget: int, published: bool, share: float
) -> tuple[list[tuple[int, int]], list[Emitted]]:
    """Segments, and (index, mass, features) of every token in order."""
    frames, n, _ = x.shape
    means = [x[t].mean(0) for t in range(frames)]
    centers = straight.best_centers(means, max(1, int(0.25 * frames)), min(7, frames))
    segments = runs_of(settled(straight.owners(means, centers)))
    lengths = [stop - first for first, stop in segments]
    alike = [{i: mean_cosine([x[t, i] for t in range(*segment)]) for i in range(n)} for segment in segments]
    static = [{i for i in range(n) if each[i] > 0.8} for each in alike]
    if not published:
        static = straight.released(static, alike, lengths, n, budget)
    capacities = [c for s, w in zip(static, lengths, strict=True) for c in [len(s)] + [n - len(s)] * w]
    if published:
        shares = [c if c <= 14 else int(share * c) for c in capacities]
    else:
        shares = straight.shared(budget, capacities)
    emitted: list[Emitted] = []
    take = iter(shares)
    for (first, stop), same in zip(segments, static, strict=True):
        at = sorted(same)
        averaged = [np.mean([x[t, i] for t in range(first, stop)], axis=0) for i in at]
        emitted += clustered(averaged, [first * n + i for i in at], stop - first, next(take))
        for t in range(first, stop):
            at = [i for i in range(n) if i not in same]
            emitted += clustered([x[t, i] for i in at], [t * n + i for i in at], 1, next(take))
    return segments, emitted


def clustered(points: list[np.ndarray], cell: list[int], each: int, clusters: int) -> list[Emitted]:
    if clusters == 0:
        return []
    if clusters == len(points):
        return [(where, float(each), point) for where, point in zip(cell, points, strict=True)]
    centers = straight.best_centers(points, clusters, min(7, len(points)))
    owner = straight.owners(points, centers)
    emitted = []
    for rank, c in enumerate(centers):
        members = [points[j] for j in range(len(points)) if owner[j] == rank]
        emitted.append((cell[c], float(each * len(members)), np.mean(members, axis=0)))
    return emitted


@given(
    st.integers(0, 10**6),
    st.integers(1, 13),
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
    total = x.shape[0] * x.shape[1]
    budget = min(max(1, round(share * total)), total - 1)
    token_share = max(share, 0.1)  # below, a set of 15 gives no cluster
    kept = PruneVid(paper_exact=published, token_cluster_share=token_share).compress(tokens, budget)
    compared(kept, *straight_line(x, budget, published, token_share))
    assert published or len(kept.features) == budget


# Published counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_counts(dtype: torch.dtype) -> None:
    tokens = golden_tokens(dtype)
    kept = PruneVid(paper_exact=True).compress(tokens, 627)
    assert [len(clip) for clip in kept.clips] == [9, 9, 9, 5]
    assert kept.facts["static_positions"] == 4 * 196
    assert kept.frame.tolist() == [first for first in (0, 9, 18, 27) for _ in range(98)]
    assert kept.mass.sum() == 32 * 196
    assert len(PruneVid().compress(tokens, 627).features) == 627


def test_the_published_count_as_a_budget_gives_the_published_tokens() -> None:
    tokens = golden_tokens()
    published, own = PruneVid(paper_exact=True).compress(tokens, 1), PruneVid().compress(tokens, 392)
    assert cells_of(own) == cells_of(published)
    assert torch.equal(own.features, published.features)


# What makes it PruneVid


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3], [0]),
        ([0, 1, 2], [0, 0, 0]),  # single frames only
        ([1, 1, 0, 1], [1, 1, 1, 1]),  # 0 is lost, and the later 1 too
        ([1, 1, 0, 2, 2, 2], [1, 1, 2, 2, 2, 2]),  # the longer neighbor
        ([1, 1, 0, 2, 2], [1, 1, 1, 2, 2]),  # of equal ones the earlier
        ([1, 1, 2, 2, 2, 1, 1], [1, 1, 2, 2, 2, 1, 1]),  # two longest runs stay
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1, 1, 2, 2, 1, 1], [1, 1, 1, 2, 2, 2, 2]),
        # The freed 0 makes the run of 2 as long as that of 3, so that the freed 4 joins it too (published program).
        ([1, 1, 0, 2, 2, 2, 4, 3, 3, 3, 3], [1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]),
    ],
)
def test_settled_labels(labels: list[int], expected: list[int]) -> None:
    assert settled_labels(torch.tensor(labels)).tolist() == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_settled_labels_of_the_straight_line_program(labels: list[int]) -> None:
    assert settled_labels(torch.tensor(labels)).tolist() == settled(labels)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_similarity_is_the_mean_over_all_pairs(seed: int, frames: int) -> None:
    x = np.random.default_rng(seed).normal(size=(frames, 5, 4))
    expected = [mean_cosine(list(x[:, i])) for i in range(5)]
    np.testing.assert_allclose(
        position_similarity(torch.from_numpy(x), CutClips(torch.arange(len(x)) == 0))[0].numpy(), expected, atol=1e-12
    )


@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.1, 1))
def test_every_token_is_somewhere(seed: int, frames: int, share: float) -> None:
    """Nothing is dropped while every set has a cluster."""
    tokens = video(seed, frames, (5, 5), Pooling("none"))
    assert PruneVid().compress(tokens, round(share * frames * 25)).mass.sum() == frames * 25
    assert PruneVid(paper_exact=True).compress(tokens, 1).mass.sum() == frames * 25


def test_a_small_set_stays_as_it_is() -> None:
    tokens = video(1, 1, (3, 3), Pooling("none"))  # nine dynamic tokens
    kept = PruneVid(paper_exact=True).compress(tokens, 1)
    assert torch.equal(kept.features, tokens.features[0])


def test_merged_tokens_come_best_center_first_at_its_place() -> None:
    """Two far clouds, the larger the denser: its center is first."""
    generator = torch.Generator().manual_seed(0)
    near, far = torch.zeros(17, 3, dtype=torch.float64), torch.full((8, 3), 9.0, dtype=torch.float64)
    features = (torch.cat([far, near]) + 0.1 * torch.randn(25, 3, generator=generator).double())[None]
    tokens = VisualTokens(features, (5, 5), Pooling("none"), (0.0,), {})
    kept = PruneVid().compress(tokens, 2)
    assert kept.mass.tolist() == [17.0, 8.0]
    assert cells_of(kept)[0] >= 8 > cells_of(kept)[1]
    torch.testing.assert_close(kept.features, torch.stack([features[0, 8:].mean(0), features[0, :8].mean(0)]))


def test_all_tokens_where_all_are_asked_for() -> None:
    tokens = video(4, 3, (5, 5), Pooling("bilinear"))
    for published in (False, True):
        kept = PruneVid(paper_exact=published).compress(tokens, 27)
        assert torch.equal(kept.features, pool(tokens.features, (5, 5), tokens.pool).flatten(0, 1))


def test_nothing_is_an_error_and_settings_are_checked() -> None:
    with pytest.raises(BudgetError, match="use --ratio"):
        PruneVid().compress(video(5, 3, (4, 4), Pooling("none")), 0)
    wrong = {"static_similarity": 1.5, "frame_cluster_share": 0.0, "token_cluster_share": 2.0, "neighbors": 0}
    with pytest.raises(ConfigError) as raised:
        build_method(Config(method="prunevid", methods={"prunevid": wrong}))
    assert all(f"methods.prunevid.{name}" in str(raised.value) for name in wrong)
