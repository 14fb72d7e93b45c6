"""Choose the frames of a video that a question is about.

Frames are scored against the question; the best frames that are not near-duplicates are chosen.
After B-VLLM (arXiv 2412.09919), with scores instead of its trained frame selector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import decision_dtype, working_dtype

__all__ = ["WordScores", "choose_frames", "text_scores"]

_CHUNK = 8  # frames whose tokens are converted together
_LEAST_DEVIATION = 1e-6  # below this, a word's cosines differ only by rounding


def choose_frames(scores: Tensor, embeddings: Tensor, count: int, duplicate_similarity: float = 0.95) -> list[int]:
    """Return the indices of the `count` best-scoring frames (all F if F <= count) in time order.

    Frames are visited from the highest score down; ties go to the earlier frame. A frame is skipped
    as a duplicate if (1 + cosine) / 2 of its embedding with that of a chosen frame is above
    `duplicate_similarity`. This is B-VLLM's temporal merging in the order of scores instead of
    time, so that the best frame of a group of duplicates is chosen. Only chosen frames are compared
    with, so that a slow change, in which each frame resembles the one before, is still covered. If
    too few frames differ, the best duplicates fill the rest.

    Args:
        scores: [F].
        embeddings: [F, E].
        count: at least 1.
        duplicate_similarity: in [0, 1].

    Raises:
        ValueError: If `count` is below 1, or scores and embeddings differ in length.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if len(scores) != len(embeddings):
        raise ValueError(f"axis 0 of embeddings: expected {len(scores)} frames, got {len(embeddings)}")
    # 1. Which pairs of frames are duplicates. One transfer to the CPU serves the whole loop.
    unit = functional.normalize(embeddings.to(decision_dtype(embeddings)), dim=-1)
    alike = ((1 + unit @ unit.T) / 2 > duplicate_similarity).cpu()
    # 2. Take frames by score and set duplicates aside.
    distinct: list[int] = []
    repeated: list[int] = []
    for frame in scores.argsort(descending=True, stable=True).tolist():
        if len(distinct) == count:
            break
        (repeated if alike[frame, distinct].any() else distinct).append(frame)
    # 3. Fill up with the best duplicates.
    return sorted((distinct + repeated)[:count])


def text_scores(texts: Tensor, embeddings: Tensor) -> Tensor:
    """Return each frame's mean cosine similarity [F] to texts; embeddings are [F, E] and [Q, E]."""
    dtype = torch.promote_types(working_dtype(texts), working_dtype(embeddings))
    similarity = functional.normalize(embeddings.to(dtype), dim=-1) @ functional.normalize(texts.to(dtype), dim=-1).T
    return similarity.mean(-1)


class WordScores:
    """Score how well the words of a question match each frame of a video that arrives in chunks.

    A word's evidence in a frame is its highest cosine similarity to the frame's tokens. All cosines
    of a word have a large common part, which differs from word to word. The evidence is therefore
    standardized: its distance from the mean in standard deviations, both over the tokens of all
    frames. This takes three running numbers per word; subtracting the mean token from the tokens
    would need all tokens in memory.

    Args:
        words: [W, D]; zero vectors have cosine 0.
        weights: [W]; sum to 1.
    """

    def __init__(self, words: Tensor, weights: Sequence[float]) -> None:
        self._words = functional.normalize(words.to(working_dtype(words)), dim=-1)
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._best: list[Tensor] = []
        self._sum = torch.zeros(len(words), dtype=torch.float64)
        self._squares = torch.zeros(len(words), dtype=torch.float64)
        self._count = 0

    def add(self, tokens: Tensor) -> None:
        """Add the tokens [F, n, D] of the next frames."""
        for part in torch.split(tokens, _CHUNK):
            cosines = functional.normalize(part.to(self._words.dtype), dim=-1) @ self._words.T
            self._best.append(cosines.amax(1).cpu().double())
            # The running sums over all tokens, for mean and deviation.
            flat = cosines.flatten(0, 1).cpu().double()
            self._sum = self._sum + flat.sum(0)
            self._squares = self._squares + flat.square().sum(0)
            self._count += len(flat)

    def scores(self) -> Tensor:
        """Return each frame's score, the weighted mean over words: float64 [F] on the CPU."""
        # Rounding can make the variance slightly negative.
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
        standard = (torch.cat(self._best) - mean) / deviation.clamp_min(_LEAST_DEVIATION)
        return standard @ self._weights
