"""The text of an answer whose ids arrive one by one."""

from __future__ import annotations

from typing import Any

__all__ = ["TextPieces"]

_UNFINISHED = "\ufffd"  # what a tokenizer returns for a character whose last bytes are missing
_MOST_IDS, _KEPT_IDS = 32, 8  # ids that are decoded together; how many of them stay beyond that
_FIRST_WITHOUT_BLANKS = "\u2e80"  # scripts from here on put no blanks between words


class TextPieces:
    """Gives text as soon as it is final: whole words, or characters of scripts without blanks.

    Ids are decoded with some before them, since the text of one may depend on its neighbors.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # characters of the text of these ids

    def add(self, word: int) -> None:
        """Take one more id."""
        self._ids.append(word)

    def complete(self) -> str:
        """Return the text that has become complete since the last call, often none."""
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
        """Keep only the last ids, if their text is the end of all text, and the rest was given."""
        kept = self._ids[-_KEPT_IDS:]
        tail: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        before = len(text) - len(tail)
        if text.endswith(tail) and self._given >= before:
            self._ids, self._given = kept, self._given - before

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _upto(self, text: str, stop: int) -> str:
        piece = text[self._given : stop]
        self._given = max(self._given, stop)
        return piece


def _settled(text: str) -> int:
    """Return how many characters are final, whatever follows."""
    for stop in range(len(text), 0, -1):
        last = text[stop - 1]
        if last.isspace() or (last >= _FIRST_WITHOUT_BLANKS and last != _UNFINISHED):
            return stop
    return 0
