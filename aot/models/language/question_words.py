"""Embed the content words of questions with a language model's input embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["QuestionWords", "content_words", "embed_words"]

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
# English words without visible content: function words, and words about videos in general.
_FRAMING = """
    a about after again all also am an and any are as at be because become becomes been before being both but by can
    could did do does doing during each first for from had happen happened happening happens has have he her his how i
    if in into is it its last many me more most much my next no not of on one only option or our out over please same
    second see seen she should show showing shown shows so some something than that the their them then there these they
    thing things this those through to under until up use very was way we were what when where which while who whom
    whose why will with would you your yes video clip scene scenes frame frames footage film image picture describe
    appear appears begin beginning change changes end ending start time
"""
_FRAMING_WORDS = frozenset(_FRAMING.split())


@dataclass(frozen=True, slots=True)
class QuestionWords:
    """The W distinct content words of several questions.

    Attributes:
        embeddings: [W, D].
        weights: [W], with sum 1. All questions have the same weight, which is divided equally among
            the words of the question.
    """

    embeddings: Tensor
    weights: tuple[float, ...]


def content_words(question: str) -> list[str]:
    """Return the distinct content words of `question`, in lower case.

    >>> content_words("What does the red dog do before the red dog's bath?")
    ['red', 'dog', "dog's", 'bath']
    """
    return list(dict.fromkeys(word for word in _WORD.findall(question.lower()) if word not in _FRAMING_WORDS))


def embed_words(tokenizer: Any, embed: Callable[[list[int]], Tensor], questions: Sequence[str]) -> QuestionWords | None:
    """Return the embeddings of all known content words; None if no question has such a word.

    A word is known if the tokenizer has tokens for all its parts; its embedding is the mean over
    its tokens. `embed` returns [I, D] for I ids. Questions without such a word are ignored.
    """
    # 1. The known content words of each question, by the ids of their tokens.
    weights: dict[str, float] = {}
    ids = {word: _known_ids(tokenizer, word) for question in questions for word in content_words(question)}
    spoken = [[word for word in content_words(question) if ids[word]] for question in questions]
    spoken = [words for words in spoken if words]
    # 2. The weight of a word is summed over the questions that contain the word.
    for words in spoken:
        for word in words:
            weights[word] = weights.get(word, 0.0) + 1 / (len(words) * len(spoken))
    if not weights:
        return None
    return QuestionWords(torch.stack([embed(ids[word]).float().mean(0) for word in weights]), tuple(weights.values()))


def _known_ids(tokenizer: Any, word: str) -> list[int]:
    """Return the ids that `word` has in a sentence; empty if a part of `word` has no token."""
    # Most tokenizers encode a word after a space differently from a word at the start.
    ids: list[int] = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return [] if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids else ids
