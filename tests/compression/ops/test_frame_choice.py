"""The choice of frames against straight-line rewrites in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.frame_choice import WordScores, choose_frames, text_scores


def straight_choice(scores: list[float], embeddings: np.ndarray, count: int, threshold: float) -> list[int]:
    chosen: list[int] = []
    gave_way: list[int] = []
    for frame in sorted(range(len(scores)), key=lambda f: (-scores[f], f)):
        repeats = False
        for other in chosen:
            a, b = embeddings[frame], embeddings[other]
            repeats |= (1 + a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)) / 2 > threshold
        if repeats:
            gave_way.append(frame)
        elif len(chosen) < count:
            chosen.append(frame)
    return sorted((chosen + gave_way)[:count]) if len(chosen) < count else sorted(chosen)


@given(st.integers(1, 12), st.integers(1, 14), st.sampled_from([0.0, 0.5, 0.7, 0.95, 1.0]), st.integers(0, 99))
def test_the_choice_is_that_of_the_rule(frames: int, count: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, frames).astype(float).tolist()  # many ties
    embeddings = rng.normal(size=(frames, 3))
    found = choose_frames(torch.tensor(scores), torch.tensor(embeddings), count, threshold)
    assert found == straight_choice(scores, embeddings, count, threshold)
    assert len(found) == min(count, frames) and found == sorted(set(found))
    assert found == choose_frames(torch.tensor(scores), torch.tensor(embeddings), count, threshold)


@pytest.mark.parametrize("count", [5, 6, 100])
def test_no_more_frames_than_wanted_are_all_kept(count: int) -> None:
    assert choose_frames(torch.arange(5.0), torch.ones(5, 3), count) == [0, 1, 2, 3, 4]


def test_of_equal_scores_the_earlier_is_chosen() -> None:
    assert choose_frames(torch.zeros(5), torch.eye(5), 3) == [0, 1, 2]


def test_the_best_of_those_alike_stays_and_others_come_first() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [1.0, 0.02]])
    assert choose_frames(torch.tensor([3.0, 4.0, 1.0, 2.0]), embeddings, 2) == [1, 2]
    assert choose_frames(torch.tensor([3.0, 4.0, 1.0, 2.0]), embeddings, 3) == [0, 1, 2]  # the best repetition fills up
    assert choose_frames(torch.tensor([3.0, 4.0, 1.0, 2.0]), embeddings, 2, duplicate_similarity=1.0) == [0, 1]


def test_a_chain_of_likenesses_loses_nothing() -> None:
    """Each frame is like the next, the last unlike the first: it stays, as what it is like is not chosen."""
    angles = torch.tensor([0.0, 0.5, 1.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    assert choose_frames(torch.tensor([3.0, 2.0, 1.0]), embeddings, 2, duplicate_similarity=0.9) == [0, 2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        choose_frames(torch.zeros(2), torch.eye(2), 0)
    with pytest.raises(ValueError, match="axis 0 of embeddings: expected 3"):
        choose_frames(torch.zeros(3), torch.eye(2), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("frames", "tokens", "words"), [(1, 1, 1), (5, 4, 2), (19, 9, 3)])
def test_word_scores(frames: int, tokens: int, words: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(frames)
    values = torch.randn(frames, tokens, 6, generator=generator).to(dtype) + 2  # much in common
    named = torch.randn(words, 6, generator=generator, dtype=torch.float64)
    weights = [1 / words] * words
    x, w = values.double().numpy(), named.numpy()
    expected = np.zeros(frames)
    for k in range(words):
        cosines = np.array([[t @ w[k] / np.linalg.norm(t) / np.linalg.norm(w[k]) for t in frame] for frame in x])
        expected += weights[k] * (cosines.max(1) - cosines.mean()) / max(cosines.std(), 1e-6)
    for cuts in ([frames], [1] * frames, [frames // 2, frames - frames // 2]):
        scorer = WordScores(named, weights)
        for part in values.split(cuts):
            scorer.add(part)
        if dtype == torch.float64 or frames > 1:
            np.testing.assert_allclose(scorer.scores().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_word_that_all_tokens_match_alike_says_nothing() -> None:
    scorer = WordScores(torch.tensor([[1.0, 1.0]]), [1.0])
    scorer.add(torch.ones(3, 4, 2))
    assert scorer.scores().abs().max() < 0.5


def test_text_scores_are_mean_cosines() -> None:
    texts, frames = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]).bfloat16()
    torch.testing.assert_close(text_scores(texts, frames), torch.tensor([0.5, 0.7]))
    assert torch.equal(text_scores(texts, torch.zeros(1, 2)), torch.zeros(1))


def test_chunks_of_frames_are_scored_without_reading_anything() -> None:
    """Tensors without values cannot be read."""
    scores = WordScores(torch.ones(2, 3, device="meta"), [0.5, 0.5])
    scores.add(torch.ones(9, 4, 3, device="meta"))
