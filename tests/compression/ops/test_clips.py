from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.clips import dynamic_clips, neighbor_similarity
from aot.types import Clip
from tests.support import oracle
from tests.support.tolerances import assert_close


def cuts(embeddings: oracle.Array, segments: int, threshold: float) -> list[tuple[int, int]]:
    return [(clip.first, clip.stop) for clip in dynamic_clips(torch.from_numpy(embeddings), segments, threshold)]


def drifting(frames: int, seed: int = 0) -> oracle.Array:
    """Embeddings whose neighbors have cosines of about 0.8."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(1, 12)) + 0.5 * rng.normal(size=(frames, 12))


def scenes(*letters: str) -> oracle.Array:
    """One frame per letter; equal letters have cosine 1, others 0, exactly."""
    return np.eye(26)[[ord(letter) - ord("a") for letter in "".join(letters)]] * 3.0


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 9, 40])
@pytest.mark.parametrize("segments", [1, 2, 8, 50])
@pytest.mark.parametrize("threshold", [-1.0, 0.8, 0.9, 1.0])
def test_random_videos_are_the_oracles(frames: int, segments: int, threshold: float) -> None:
    embeddings = drifting(frames)
    assert cuts(embeddings, segments, threshold) == oracle.dynamic_clips(embeddings, segments, threshold)


@pytest.mark.parametrize("video", ["aaaaaaaa", "abababab", "aaabbbcc", "abcaaaaa", "aab", "a"])
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 8, 9])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.8, 1.0])
def test_ties_are_the_oracles(video: str, segments: int, threshold: float) -> None:
    embeddings = scenes(video)
    assert cuts(embeddings, segments, threshold) == oracle.dynamic_clips(embeddings, segments, threshold)


def test_scene_changes_are_cut() -> None:
    assert cuts(scenes("aaabbcaa"), 1, 0.8) == [(0, 3), (3, 5), (5, 6), (6, 8)]
    assert cuts(scenes("aaabbcaa"), 3, -1.0) == [(0, 3), (3, 5), (5, 8)]


@pytest.mark.parametrize("frames", [1, 3, 8, 33])
def test_constant_videos_are_cut_from_the_front(frames: int) -> None:
    embeddings = np.repeat(drifting(1), frames, axis=0)
    expected = oracle.dynamic_clips(embeddings, 8, 0.8)
    assert cuts(embeddings, 8, 0.8) == expected
    assert len(expected) == min(frames, 8)


def test_lower_precision_and_blank_embeddings() -> None:
    embeddings = torch.from_numpy(drifting(30)).bfloat16()
    assert cuts(embeddings.double().numpy(), 8, 0.8) == [
        (clip.first, clip.stop) for clip in dynamic_clips(embeddings, 8, 0.8)
    ]
    assert cuts(np.zeros((5, 4)), 1, 0.8) == [(f, f + 1) for f in range(5)]


def test_similarity_is_the_oracles() -> None:
    embeddings = drifting(20)
    expected = [oracle.cosine(a[None], b[None])[0, 0] for a, b in pairwise(embeddings)]
    assert_close(neighbor_similarity(torch.from_numpy(embeddings)), expected, "float32")
    assert neighbor_similarity(torch.from_numpy(embeddings[:1])).shape == (0,)


@given(st.integers(1, 40), st.integers(1, 12), st.floats(-1, 1), st.integers(0, 2**32 - 1))
def test_clips_cover_all_frames_in_order(frames: int, segments: int, threshold: float, seed: int) -> None:
    clips = dynamic_clips(torch.from_numpy(drifting(frames, seed)), segments, threshold)
    assert [f for clip in clips for f in range(clip.first, clip.stop)] == list(range(frames))
    assert all(len(clip) >= 1 for clip in clips)
    assert len(clips) >= min(segments, frames)


@given(st.integers(1, 200), st.integers(1, 70))
def test_runs_are_the_oracles(frames: int, length: int) -> None:
    assert [(clip.first, clip.stop) for clip in Clip.runs(frames, length)] == oracle.fixed_clips(frames, length)
