"""Decode an answer whose ids arrive one by one."""

from __future__ import annotations

from typing import Any

__all__ = ["TextPieces"]

_UNFINISHED = "\ufffd"  # a tokenizer returns it for a character whose last bytes are missing
# Decoding all ids for every new one would take quadratic time. Above the first number of ids, only
# the second number is kept.
_MOST_IDS, _KEPT_IDS = 32, 8
_FIRST_WITHOUT_BLANKS = "\u2e80"  # scripts from here on have no spaces between words


class TextPieces:
    """Return text as soon as it is final: whole words, or characters of scripts without spaces.

    Ids are decoded with some of the ids before them, because their text may depend on these.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # the number of characters of their text that were returned

    def add(self, word: int) -> None:
        """Add one id."""
        self._ids.append(word)

    def complete(self) -> str:
        """Return the text that has become final since the last call, often empty."""
        text = self._text()
        piece = self._upto(text, _settled(text))
        if len(self._ids) > _MOST_IDS:
            self._shorten(text)
        return piece

    def end(self) -> str:
        """Return the rest of the text."""
        text = self._text()
        return self._upto(text, len(text))

    def _shorten(self, text: str) -> None:
        """Keep only the last ids, if that cannot change later text."""
        # The last ids must decode to the same text alone, and the rest must have been returned.
        kept = self._ids[-_KEPT_IDS:]
        tail: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        before = len(text) - len(tail)
        if text.endswith(tail) and self._given >= before:
            self._ids, self._given = kept, self._given - before

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _upto(self, text: str, stop: int) -> str:
        """Return the text before `stop` that was not returned before."""
        piece = text[self._given : stop]
        self._given = max(self._given, stop)
        return piece


def _settled(text: str) -> int:
    """Return the number of characters that no further id can change."""
    # A word is final after a space; a character of these scripts, when its bytes are complete.
    for stop in range(len(text), 0, -1):
        last = text[stop - 1]
        if last.isspace() or (last >= _FIRST_WITHOUT_BLANKS and last != _UNFINISHED):
            return stop
    return 0
