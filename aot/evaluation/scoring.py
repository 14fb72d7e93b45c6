"""Score an answer from 0 (wrong) to 1 (right)."""

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
    """Return `text` in lower case, without extra spaces, outer punctuation and leading article.

    Number words from zero to ten become digits.
    """
    words = " ".join(text.casefold().split()).strip(" .,;:!?\"'`")
    spelled = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words.split()]
    return re.sub(r"^(the|a|an) ", "", " ".join(spelled))


def score(item: Item, predicted: str) -> float | None:
    """Return 1 if `predicted` is right, else 0; for a description, the share of right sentences.

    The score is None if the right answer is not known.

    A multiple-choice answer is right if it is the letter or the text of the right option. In a
    description (family "describe"), a sentence is right if the expected description has the same
    sentence at any place. The share is right sentences / max(predicted sentences, expected
    sentences), so it falls with each missing and each invented sentence.
    """
    if item.answer is None:
        return None
    if item.options:
        return float(_chosen(item, predicted) == item.right_option)
    if item.family == _DESCRIPTION:
        return _sentence_share(item.answer, predicted)
    return float(normalize(predicted) == normalize(item.answer))


def _chosen(item: Item, predicted: str) -> int | None:
    """Return the index of the option that `predicted` names; None if it names no option.

    `predicted` may be the text of the option, the letter alone, or the letter with punctuation.
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
