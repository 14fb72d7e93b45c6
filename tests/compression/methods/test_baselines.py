"""The baselines: exact budgets, and each one's choice against a straight-line program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.methods import build_method
from aot.compression.ops.grid import pool, pooled_grid
from aot.config.schema import Config
from aot.errors import ConfigError
from aot.types import CompressedTokens, Pooling, VisualTokens

BASELINES = ("random", "uniform", "attention", "frames")
DEEP = Config().aot.anchors.deep_layer


def video(frames: int, side: int = 5, seed: int = 0, width: int = 6) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    return VisualTokens(
        features=torch.randn(frames, side * side, width, generator=generator),
        grid=(side, side),
        pool=Pooling("bilinear", 2),
        timestamps_s=tuple(float(k) for k in range(frames)),
        saliency={DEEP: torch.rand(frames, side * side, generator=generator)},
    )


def kept(name: str, tokens: VisualTokens, budget: int, **settings: object) -> CompressedTokens:
    return build_method(Config(ratio=0.5, method=name, **settings)).compress(tokens, budget)  # type: ignore[arg-type]


def flat(result: CompressedTokens) -> list[int]:
    """Kept tokens as indices into all F * n."""
    rows, cols = result.grid
    return (result.frame.long() * rows * cols + result.row.long() * cols + result.col.long()).tolist()


@given(st.sampled_from(BASELINES), st.integers(1, 9), st.floats(0, 1), st.sampled_from([3, 5, 8]))
def test_budgets_are_exact_and_tokens_unchanged(name: str, frames: int, share: float, side: int) -> None:
    tokens = video(frames, side)
    pooled = pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1)
    budget = max(1, round(share * len(pooled)))
    result = kept(name, tokens, budget)
    index = flat(result)
    assert len(index) == budget
    assert index == sorted(set(index))
    assert torch.equal(result.features, pooled[index])
    assert (result.mass == 1).all()


@pytest.mark.parametrize("name", BASELINES)
def test_ratios_are_promised_to_the_token(name: str) -> None:
    assert Config(method=name, ratio=0.1).has_budget


def test_uniform_is_in_the_middle_of_every_stretch() -> None:
    tokens = video(4)  # 4 * 9 tokens
    assert flat(kept("uniform", tokens, 6)) == [3, 9, 15, 21, 27, 33]
    assert flat(kept("uniform", tokens, 36)) == list(range(36))
    gaps = np.diff(flat(kept("uniform", tokens, 7)))
    assert gaps.max() - gaps.min() <= 1


def test_attention_keeps_the_most_salient_of_the_whole_video() -> None:
    tokens = video(3)
    saliency = pool(tokens.saliency[DEEP][..., None], tokens.grid, tokens.pool).flatten().tolist()
    expected = sorted(sorted(range(27), key=lambda k: -saliency[k])[:8])
    assert flat(kept("attention", tokens, 8)) == expected


def test_attention_takes_the_earlier_of_equals() -> None:
    tokens = video(3)
    level = VisualTokens(tokens.features, tokens.grid, tokens.pool, tokens.timestamps_s, {DEEP: torch.ones(3, 25)})
    assert flat(kept("attention", level, 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("budget", "per_frame"),
    [
        (4, [(3, 4)]),
        (9, [(3, 9)]),
        (18, [(1, 9), (4, 9)]),
        (20, [(1, 9), (3, 9), (5, 2)]),
        (54, [(k, 9) for k in range(6)]),
    ],
)
def test_frames_are_whole_but_for_the_last(budget: int, per_frame: list[tuple[int, int]]) -> None:
    result = kept("frames", video(6), budget)
    frames, counts = result.frame.unique(return_counts=True)
    assert list(zip(frames.tolist(), counts.tolist(), strict=True)) == per_frame


def test_random_is_a_function_of_seed_and_video() -> None:
    one = replace(video(8), video_name="one.mp4")
    draw = flat(kept("random", one, 20))
    assert draw == flat(kept("random", one, 20))
    assert draw != flat(kept("random", replace(one, video_name="other.mp4"), 20))
    assert draw != flat(kept("random", replace(one, timestamps_s=tuple(k + 8.0 for k in range(8))), 20))
    assert draw != flat(kept("random", one, 20, methods={"random": {"seed": 1}}))
    assert kept("random", replace(one, video_name="\udce9.mp4"), 20).cell.numel() == 20  # not UTF-8


def test_random_reads_no_feature() -> None:
    """Devices and dtypes round features unlike; they draw the same tokens, those drawn here."""
    one = replace(video(8, seed=1), video_name="one.mp4")
    half = replace(one, features=one.features.to(torch.bfloat16))
    assert flat(kept("random", one, 20)) == flat(kept("random", half, 20))
    assert flat(kept("random", one, 20)) == [3, 4, 5, 6, 12, 16, 18, 23, 34, 35, 41, 42, 46, 55, 57, 64, 65, 66, 67, 69]


def test_random_favors_no_token() -> None:
    counts = np.zeros(36)
    for seed in range(400):
        counts[flat(kept("random", replace(video(4), video_name=f"{seed}.mp4"), 9))] += 1
    assert abs(counts.mean() - 100) < 1e-9
    assert np.abs(counts - 100).max() < 5 * np.sqrt(100 * 0.75)


@pytest.mark.parametrize("name", BASELINES)
def test_keeping_nothing_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"none of 36 tokens; use --ratio 0\.028 or more"):
        kept(name, video(4), 0)
    assert Config(ratio=0.028).token_budget(4, 9) == 1


def test_the_grid_is_the_pooled_one() -> None:
    tokens = video(2, side=15)
    assert kept("uniform", tokens, 10).grid == pooled_grid((15, 15), tokens.pool) == (8, 8)
