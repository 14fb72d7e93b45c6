"""Score frames by their relevance to questions, without running the language model."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.frame_choice import WordScores, text_scores
from aot.compression.ops.grid import pool
from aot.errors import ModelError
from aot.models.language.question_words import QuestionWords
from aot.types import VisualTokens

__all__ = ["ByTextTower", "ByWords"]


class ByTextTower:
    """Score frames by cosine similarity to `texts` [Q, E], SigLIP's embeddings of Q questions."""

    def __init__(self, texts: Tensor, name: str) -> None:
        self.by = f"the text tower of {name}"
        self._texts = texts
        self._scores: list[Tensor] = []

    def add(self, visual: VisualTokens) -> None:
        """Score the next frames; frame and question embeddings must have the same width."""
        embeddings = visual.frame_embeddings
        if embeddings is None or embeddings.shape[-1] != self._texts.shape[-1]:
            raise ModelError(
                f"{self.by} returns embeddings of width {self._texts.shape[-1]}, but its pooling head does not; "
                "pass a full SigLIP checkpoint"
            )
        self._scores.append(text_scores(self._texts, embeddings).cpu())

    def scores(self) -> Tensor:
        """Return the scores [F] of all frames so far, on the CPU."""
        return torch.cat(self._scores)


class ByWords:
    """Score frames by the similarity of their tokens to the embeddings of question words."""

    def __init__(self, words: QuestionWords, by: str) -> None:
        self.by = by
        self._device = words.embeddings.device
        self._scores = WordScores(words.embeddings, words.weights)

    def add(self, visual: VisualTokens) -> None:
        """Score the next frames by their pooled tokens."""
        self._scores.add(pool(visual.features, visual.grid, visual.pool).to(self._device))

    def scores(self) -> Tensor:
        """Return the scores [F] of all frames so far, on the CPU."""
        return self._scores.scores()
