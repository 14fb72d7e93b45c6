"""Which of a video's frames a question is about: scores for frames, and the best of them that are not alike.

After B-VLLM (arXiv 2412.09919), with scores in place of its trained frame selector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import decision_dtype, working_dtype

__all__ = ["WordScores", "choose_frames", "text_scores"]

_CHUNK = 8  # frames whose tokens are converted at once
_LEAST_DEVIATION = 1e-6  # of cosines; below, a word's are all the same but for rounding


def choose_frames(scores: Tensor, embeddings: Tensor, count: int, duplicate_similarity: float = 0.95) -> list[int]:
    """The `count` best-scoring frames (scores [F]) in time order, or all F if there are no more; of equal ones the
    earlier.

    From the best down, a frame gives way where (1 + cosine) / 2 of its embedding [F, E] with one chosen before is above
    `duplicate_similarity`: B-VLLM's temporal merging, in the order of the scores rather than of time, so that the best
    of those alike stays, and compared with chosen frames alone, so that a chain of likenesses loses nothing. If too
    few frames differ, the best that gave way fill up.

    Raises:
        ValueError: `count` is below 1, or there are not as many embeddings as scores.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if len(scores) != len(embeddings):
        raise ValueError(f"axis 0 of embeddings: expected {len(scores)} frames, got {len(embeddings)}")
    unit = functional.normalize(embeddings.to(decision_dtype(embeddings)), dim=-1)
    alike = ((1 + unit @ unit.T) / 2 > duplicate_similarity).cpu()
    distinct: list[int] = []
    repeated: list[int] = []
    for frame in scores.argsort(descending=True, stable=True).tolist():
        if len(distinct) == count:
            break
        (repeated if alike[frame, distinct].any() else distinct).append(frame)
    return sorted((distinct + repeated)[:count])


def text_scores(texts: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine of every frame's embedding [F, E] with each text's [Q, E], the mean over texts: [F]."""
    dtype = torch.promote_types(working_dtype(texts), working_dtype(embeddings))
    similarity = functional.normalize(embeddings.to(dtype), dim=-1) @ functional.normalize(texts.to(dtype), dim=-1).T
    return similarity.mean(-1)


class WordScores:
    """How well each word of a question is seen in each frame of a video that comes in pieces.

    A word's evidence in a frame is its best cosine with the frame's tokens. All cosines have a large part in common,
    which differs from word to word; so a word's evidence counts in standard deviations from the mean, both over the
    tokens of all frames. That needs three numbers for each word, where taking the mean token away from the tokens would
    need all of these at once.

    words: [W, D], zero vectors have cosine 0. weights: [W], sum to 1.
    """

    def __init__(self, words: Tensor, weights: Sequence[float]) -> None:
        self._words = functional.normalize(words.to(working_dtype(words)), dim=-1)
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._best: list[Tensor] = []
        self._sum = torch.zeros(len(words), dtype=torch.float64)
        self._squares = torch.zeros(len(words), dtype=torch.float64)
        self._count = 0

    def add(self, tokens: Tensor) -> None:
        """The tokens [F, n, D] of the next frames."""
        for part in torch.split(tokens, _CHUNK):
            cosines = functional.normalize(part.to(self._words.dtype), dim=-1) @ self._words.T
            self._best.append(cosines.amax(1).cpu().double())
            flat = cosines.flatten(0, 1).cpu().double()
            self._sum = self._sum + flat.sum(0)
            self._squares = self._squares + flat.square().sum(0)
            self._count += len(flat)

    def scores(self) -> Tensor:
        """Of all frames that came, the weighted mean over words: float64 [F], on the CPU."""
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
        standard = (torch.cat(self._best) - mean) / deviation.clamp_min(_LEAST_DEVIATION)
        return standard @ self._weights
