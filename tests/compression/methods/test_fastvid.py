"""FastVID against a straight-line program, and what its budgets promise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.compression.methods.fastvid import FastVid
from aot.errors import BudgetError, ConfigError
from aot.types import Clip, Pooling, Role, VisualTokens
from tests.support import density_oracle, oracle
from tests.support.golden_input import golden_tokens
from tests.support.kept_tokens import Kept, assert_is, cells_of
from tests.support.synthetic_tokens import random_features, random_saliency


def video(seed: int, frames: int, grid: oracle.Grid = (6, 7), kind: Any = "bilinear") -> VisualTokens:
    rng = np.random.default_rng(seed)
    features, attention = random_features(rng, frames, grid), random_saliency(rng, frames, grid)
    return VisualTokens(
        features=torch.from_numpy(features),
        grid=grid,
        pool=Pooling(kind),
        timestamps_s=tuple(float(t) for t in range(frames)),
        saliency={},
        frame_embeddings=torch.from_numpy(rng.normal(size=5) + 0.7 * rng.normal(size=(frames, 5)).cumsum(0)),
        pooling_attention=torch.from_numpy(attention / attention.sum(1, keepdims=True)),
    )


def pooled(tokens: VisualTokens, values: torch.Tensor) -> oracle.Array:
    if tokens.pool.kind == "none":
        return values.numpy()
    return oracle.pool_features(values.numpy(), tokens.grid, tokens.pool.kind)


def published_counts(per_frame: int, frames: int, budget: int, clips: Any) -> tuple[list[int], dict[int, int]]:
    """Salient tokens of each frame, and context anchors of the frames that have them."""
    b = budget // frames
    k = math.floor(0.4 * b)
    anchors = {}
    for first, stop in clips:
        length = stop - first
        targets = [first + i for i in range(length) if (length - 1 - i) % 4 == 0]
        for t in targets:
            anchors[t] = min(k * length // len(targets), per_frame - (b - k)) if length > 1 else k
    return [b - k] * frames, anchors


def exact_counts(per_frame: int, frames: int, budget: int, clips: Any) -> tuple[list[int], dict[int, int]]:
    """The same with nothing lost to rounding."""
    edges = [math.floor(t * budget / frames + 0.5) for t in range(frames + 1)]
    shares = [edges[t + 1] - edges[t] for t in range(frames)]
    context = [math.floor(0.4 * share) for share in shares]
    salient = [share - k for share, k in zip(shares, context, strict=True)]
    anchors: dict[int, int] = {}
    for first, stop in clips:
        targets = [t for t in range(first, stop) if (stop - 1 - t) % 4 == 0]
        others = [t for t in range(first, stop) if t not in targets]
        wanted = sum(context[first:stop])
        given = min(wanted, sum(per_frame - salient[t] for t in targets))
        for group, amount, table in ((targets, given, anchors), (others, wanted - given, {})):
            room = [per_frame - salient[t] for t in group]
            parts = [amount * r // max(sum(room), 1) for r in room]
            remainders = [amount * r % max(sum(room), 1) for r in room]
            for i in oracle.largest(remainders, amount - sum(parts)):
                parts[i] += 1
            table.update(zip(group, parts, strict=True))
            if group is others:
                for t in others:
                    salient[t] += table[t]
    return salient, anchors


def straight_line(tokens: VisualTokens, budget: int, exact: bool) -> list[Kept]:
    assert tokens.frame_embeddings is not None
    assert tokens.pooling_attention is not None
    x, p = pooled(tokens, tokens.features), pooled(tokens, tokens.pooling_attention[..., None])[..., 0]
    frames, n, _ = x.shape
    clips = oracle.dynamic_clips(tokens.frame_embeddings.numpy(), 8, 0.9)
    salient_counts, anchor_counts = (exact_counts if exact else published_counts)(n, frames, budget, clips)
    salient = [oracle.largest(p[t], salient_counts[t]) for t in range(frames)]
    free = [[i for i in range(n) if i not in salient[t]] for t in range(frames)]
    kept: list[Kept] = [(t * n + i, x[t, i], 1) for t in range(frames) for i in salient[t]]
    for first, stop in clips:
        members = np.array([x[t, i] for t in range(first, stop) for i in free[t]]).reshape(-1, x.shape[2])
        for t in range(first, stop):
            count = anchor_counts.get(t, 0)
            if count == 0:
                continue
            chosen = density_oracle.peaks(x[t, free[t]], count, min(4, len(free[t])))
            anchors = [free[t][i] for i in chosen]
            nearest = oracle.cosine(members, x[t, anchors]).argmax(1)
            for j, i in enumerate(anchors):
                own = members[nearest == j]
                w = max(1 / (len(own) + 1), 0.6)
                kept.append((t * n + i, w * x[t, i] + (1 - w) * own.mean(0), len(own)))
    return sorted(kept, key=lambda each: each[0])


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 24),
    st.sampled_from([(6, 7), (4, 4), (9, 5)]),
    st.sampled_from(["bilinear", "average", "none"]),
    st.floats(0, 1),
)
def test_tokens_of_any_budget(seed: int, frames: int, grid: oracle.Grid, kind: str, ratio: float) -> None:
    tokens = video(seed, frames, grid, kind)
    total = frames * pooled(tokens, tokens.features).shape[1]
    budget = min(max(1, round(ratio * total)), total - 1)
    kept = FastVid().compress(tokens, budget)
    assert len(kept.features) == budget
    assert_is(kept, straight_line(tokens, budget, exact=True))
    if budget >= frames:
        published = FastVid(paper_exact=True).compress(tokens, budget)
        assert len(published.features) <= budget
        assert_is(published, straight_line(tokens, budget, exact=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_segments(dtype: torch.dtype) -> None:
    kept = FastVid(paper_exact=True).compress(golden_tokens(dtype), 627)
    assert [len(clip) for clip in kept.clips] == [1, 1, 1, 1, 5, 9, 9, 5]


@pytest.mark.parametrize(
    ("ratio", "salient", "context"), [(0.10, 12, 7), (0.15, 18, 11), (0.20, 24, 15), (0.25, 30, 19)]
)
def test_published_counts(ratio: float, salient: int, context: int) -> None:
    kept = FastVid(paper_exact=True).compress(golden_tokens(), round(ratio * 32 * 196))
    assert kept.facts["salient_tokens"] == 32 * salient
    # Segments of 1, 1, 1, 1, 5, 9, 9, 5 frames, and 2 or 3 frames with anchors in the longer ones.
    shares = [(5, 2), (9, 3), (9, 3), (5, 2)]
    assert kept.facts["context_tokens"] == 4 * context + sum(a * (context * length // a) for length, a in shares)


def test_context_is_in_the_last_frame_and_every_fourth_before() -> None:
    tokens = golden_tokens()
    kept = FastVid(segments=1, threshold=-1.0).compress(tokens, 627)
    assert kept.clips == (Clip(0, 32),)
    assert set(kept.frame[kept.role == Role.MERGED].tolist()) == {3, 7, 11, 15, 19, 23, 27, 31}


def test_a_segment_is_absorbed_by_each_of_its_anchor_frames() -> None:
    tokens = golden_tokens(torch.float64)
    kept = FastVid(segments=1, threshold=-1.0).compress(tokens, 608)  # 12 salient tokens in every frame
    merged = kept.mass > 1
    for frame in (3, 31):
        assert kept.mass[merged & (kept.frame == frame)].sum() == 32 * (196 - 12)


def test_salient_tokens_are_unchanged() -> None:
    tokens = golden_tokens()
    kept = FastVid().compress(tokens, 627)
    salient = kept.role == Role.KEPT
    assert torch.equal(kept.features[salient], tokens.features.flatten(0, 1)[cells_of(kept)][salient])


def test_more_than_the_anchor_frames_hold_goes_to_the_others() -> None:
    tokens = replace(video(3, 4), frame_embeddings=torch.ones(4, 5))
    kept = FastVid(segments=1).compress(tokens, 44)  # of 48; shares of 11, 4 of them context
    assert kept.facts == {"salient_tokens": 39, "context_tokens": 5}
    assert torch.bincount(kept.frame).tolist() == [11, 11, 10, 12]


def test_what_it_refuses() -> None:
    tokens = video(0, 5)
    with pytest.raises(BudgetError, match="4 of 60 tokens are too few for 5 frames, with paper_exact"):
        FastVid(paper_exact=True).compress(tokens, 4)
    with pytest.raises(ValueError, match="frame_embeddings"):
        FastVid().compress(replace(tokens, frame_embeddings=None), 30)
    with pytest.raises(ConfigError, match=r"context_share must be in \[0, 1\], got 2.*own_weight"):
        FastVid(context_share=2.0, own_weight=-1.0)
