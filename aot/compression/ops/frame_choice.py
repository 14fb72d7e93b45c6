"""Choose the frames of a video that match a question best.

Each frame gets a score for the question. Frames with high scores are chosen unless they are
near-duplicates. This follows B-VLLM (arXiv 2412.09919), with scores instead of a trained selector.
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

    Frames are visited by descending score; ties go to the earlier frame. A frame is skipped as a
    duplicate if (1 + c) / 2 is above `duplicate_similarity`, where c is the cosine similarity of
    its embedding to the embedding of any frame chosen before. B-VLLM merges in the same way, but
    visits frames in time order; here, the best frame of each group of duplicates is chosen. Frames
    are not compared with skipped frames; a slow change, in which all adjacent frames are similar,
    is therefore still covered. If fewer than `count` are chosen, the best duplicates are added.

    Args:
        scores: [F], how well each frame matches the question.
        embeddings: [F, E], one per frame.
        count: the number of frames to choose, at least 1.
        duplicate_similarity: the limit for duplicates, in [0, 1].

    Raises:
        ValueError: If `count` is below 1, or scores and embeddings differ in length.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if len(scores) != len(embeddings):
        raise ValueError(f"axis 0 of embeddings: expected {len(scores)} frames, got {len(embeddings)}")
    # 1. Find the pairs of duplicates. One transfer to the CPU serves the whole loop.
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
    """Return [F], the mean cosine similarity of each frame's embedding [F, E] to `texts` [Q, E]."""
    dtype = torch.promote_types(working_dtype(texts), working_dtype(embeddings))
    similarity = functional.normalize(embeddings.to(dtype), dim=-1) @ functional.normalize(texts.to(dtype), dim=-1).T
    return similarity.mean(-1)


class WordScores:
    """Score how well the words of a question match each frame of a video that arrives in chunks.

    A word's evidence in a frame is the word's highest cosine similarity to the frame's tokens. All
    cosines of a word have a large common part, which differs from word to word. The evidence is
    therefore standardized: (evidence - mean) / standard deviation, with both statistics over the
    word's cosines to the tokens of all frames. Two running sums per word suffice for this, whereas
    subtracting the mean token from all tokens would need all tokens in memory.

    Args:
        words: [W, D], the embedding of each word; zero vectors have cosine 0.
        weights: [W], the weight of each word; they sum to 1.
    """

    def __init__(self, words: Tensor, weights: Sequence[float]) -> None:
        self._words = functional.normalize(words.to(working_dtype(words)), dim=-1)
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._best: list[Tensor] = []
        self._sum = _in_double(torch.zeros_like(words[:, 0]))
        self._squares = torch.zeros_like(self._sum)
        self._count = 0

    def add(self, tokens: Tensor) -> None:
        """Record the cosines of the words to the `tokens` [F, n, D] of the next F frames."""
        for part in torch.split(tokens, _CHUNK):
            cosines = functional.normalize(part.to(self._words.dtype), dim=-1) @ self._words.T
            self._best.append(_in_double(cosines.amax(1)))
            # The running sums over all tokens, for mean and deviation.
            flat = _in_double(cosines.flatten(0, 1))
            self._sum = self._sum + flat.sum(0)
            self._squares = self._squares + flat.square().sum(0)
            self._count += len(flat)

    def scores(self) -> Tensor:
        """Return each frame's weighted mean of standardized evidence, float64 [F] on the CPU."""
        # Rounding can make the variance slightly negative.
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
        standard = (torch.cat(self._best) - mean) / deviation.clamp_min(_LEAST_DEVIATION)
        return standard.cpu() @ self._weights


def _in_double(values: Tensor) -> Tensor:
    """Return `values` in float64, on their device if it has float64, else on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()
