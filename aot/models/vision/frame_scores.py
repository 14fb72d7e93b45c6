"""Scoring frames against questions, with nothing of the model but what encodes them."""

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
    """Cosine of the frames' SigLIP embeddings with those of the questions, texts [Q, E]."""

    def __init__(self, texts: Tensor, name: str) -> None:
        self.by = f"the text tower of {name}"
        self._texts = texts
        self._scores: list[Tensor] = []

    def add(self, visual: VisualTokens) -> None:
        embeddings = visual.frame_embeddings
        if embeddings is None or embeddings.shape[-1] != self._texts.shape[-1]:
            raise ModelError(
                f"{self.by} gives embeddings of width {self._texts.shape[-1]}, which its pooling head does not; "
                "pass a full SigLIP checkpoint"
            )
        self._scores.append(text_scores(self._texts, embeddings).cpu())

    def scores(self) -> Tensor:
        return torch.cat(self._scores)


class ByWords:
    """How well the questions' words are seen among the frames' tokens, both as the language model meets them."""

    def __init__(self, words: QuestionWords, by: str) -> None:
        self.by = by
        self._device = words.embeddings.device
        self._scores = WordScores(words.embeddings, words.weights)

    def add(self, visual: VisualTokens) -> None:
        self._scores.add(pool(visual.features, visual.grid, visual.pool).to(self._device))

    def scores(self) -> Tensor:
        return self._scores.scores()
