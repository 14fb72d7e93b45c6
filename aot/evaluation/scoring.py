"""How right an answer is, from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter

from aot.evaluation.dataset import Item

__all__ = ["SCORING", "normalise", "score"]

SCORING = (
    "micro: mean over questions; macro: mean over families; both include the family describe by its share of right "
    "sentences"
)

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DESCRIPTION = "describe"


def normalise(text: str) -> str:
    """Case, spaces, final punctuation and a leading article do not matter, nor whether "three" is 3."""
    words = " ".join(text.casefold().split()).strip(" .,;:!?\"'`")
    spelled = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words.split()]
    return re.sub(r"^(the|a|an) ", "", " ".join(spelled))


def score(item: Item, predicted: str) -> float:
    """1 or 0 for an answer that is right or not; for the family "describe" the share of right sentences.

    A multiple choice is right by the option's letter or its text. A description's sentences are compared whole and
    regardless of their order; the share is matched sentences / max(sentences given, sentences wanted), so that neither
    leaving out nor making up is free.
    """
    if item.options:
        return float(_chosen(item, predicted) == item.right_option)
    if item.family == _DESCRIPTION:
        return _sentence_share(item.answer, predicted)
    return float(normalise(predicted) == normalise(item.answer))


def _chosen(item: Item, predicted: str) -> int | None:
    """Index of the option that was chosen: a letter, alone or before a stop or bracket, or the option's text."""
    wanted = normalise(predicted)
    for index, option in enumerate(item.options):
        if normalise(option) == wanted:
            return index
    letter = re.match(r"\s*\(?([A-Za-z])(?:[.):,]|\s*$)", predicted)
    return item.option_of(letter[1]) if letter else None


def _sentence_share(wanted: str, predicted: str) -> float:
    one, other = (Counter(_sentences(text)) for text in (wanted, predicted))
    return (one & other).total() / max(one.total(), other.total(), 1)


def _sentences(text: str) -> list[str]:
    return [sentence for part in re.split(r"[.!?]+(?:\s|$)", text) if (sentence := normalise(part))]
