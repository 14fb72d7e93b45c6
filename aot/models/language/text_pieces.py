"""Decode an answer whose ids arrive one by one."""

from __future__ import annotations

from typing import Any

__all__ = ["TextPieces"]

_UNFINISHED = "\ufffd"  # decoded text of a character whose last bytes are missing
# To decode all ids after each new id would take quadratic time. Above `_MOST_IDS` ids, only the
# last `_KEPT_IDS` are kept.
_MOST_IDS, _KEPT_IDS = 32, 8
_FIRST_WITHOUT_BLANKS = "\u2e80"  # scripts from this character on have no spaces between words


class TextPieces:
    """Decode ids to text that is final: whole words, or characters of scripts without spaces.

    New ids are decoded together with some earlier ids, because the text may depend on these.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # the number of characters of the text that were returned

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
        """Return all text that was not returned before."""
        text = self._text()
        return self._upto(text, len(text))

    def _shorten(self, text: str) -> None:
        """Keep only the last ids, if this cannot change later text; `text` decodes all ids."""
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
        """Return the part of `text` before index `stop` that was not returned before."""
        piece = text[self._given : stop]
        self._given = max(self._given, stop)
        return piece


def _settled(text: str) -> int:
    """Return the length of the beginning of `text` that no further id can change."""
    # Text is final after a space, and after a complete character of a script without spaces.
    for stop in range(len(text), 0, -1):
        last = text[stop - 1]
        if last.isspace() or (last >= _FIRST_WITHOUT_BLANKS and last != _UNFINISHED):
            return stop
    return 0
