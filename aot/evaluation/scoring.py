"""Score an answer from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter

from aot.evaluation.dataset import Item

__all__ = ["SCORING", "normalize", "score"]

SCORING = (
    "micro: mean over questions; macro: mean over families; both include the family describe by its share of right "
    "sentences"
)

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DESCRIPTION = "describe"


def normalize(text: str) -> str:
    """Return a text in a form that ignores case, spacing, outer punctuation and a leading article.

    Number words up to ten become digits.
    """
    words = " ".join(text.casefold().split()).strip(" .,;:!?\"'`")
    spelled = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words.split()]
    return re.sub(r"^(the|a|an) ", "", " ".join(spelled))


def score(item: Item, predicted: str) -> float:
    """Return 1 for a right answer, else 0; for a description, the share of right sentences.

    A multiple-choice answer is right if it gives the option's letter or text. The sentences of a
    description (family "describe") are compared as a whole and in any order. The share is
    matches / max(sentences given, sentences expected), so that both omissions and inventions cost.
    """
    if item.options:
        return float(_chosen(item, predicted) == item.right_option)
    if item.family == _DESCRIPTION:
        return _sentence_share(item.answer, predicted)
    return float(normalize(predicted) == normalize(item.answer))


def _chosen(item: Item, predicted: str) -> int | None:
    """Return the index of the chosen option, or None.

    The answer is the option's text, or its letter, alone or followed by punctuation.
    """
    wanted = normalize(predicted)
    for index, option in enumerate(item.options):
        if normalize(option) == wanted:
            return index
    letter = re.match(r"\s*\(?([A-Za-z])(?:[.):,]|\s*$)", predicted)
    return item.option_of(letter[1]) if letter else None


def _sentence_share(wanted: str, predicted: str) -> float:
    one, other = (Counter(_sentences(text)) for text in (wanted, predicted))
    return (one & other).total() / max(one.total(), other.total(), 1)


def _sentences(text: str) -> list[str]:
    return [sentence for part in re.split(r"[.!?]+(?:\s|$)", text) if (sentence := normalize(part))]
