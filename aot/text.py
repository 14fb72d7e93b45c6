"""Check and clean input text, which may be invalid UTF-8 or unsafe to display.

In command lines and file names, Python represents bytes that are not UTF-8 as lone surrogates
(PEP 383). No tokenizer accepts them, and no UTF-8 file can contain them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from aot.errors import ConfigError

__all__ = [
    "UNSAFE",
    "Verbatim",
    "as_utf8",
    "check_question_text",
    "did_you_mean",
    "is_utf8",
    "one_line",
    "similar_names",
    "visible",
]

_HALF = re.compile("[\ud800-\udfff]")
# Controls (C0 except newline and tab, DEL, C1), line and paragraph separators, directional
# embeddings, overrides and isolates (Unicode Standard Annex 9), and lone surrogates.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def is_utf8(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8."""
    return _HALF.search(text) is None


def as_utf8(text: str) -> str:
    """Return `text` with a replacement character for each byte that was not valid UTF-8."""
    return _HALF.sub(_REPLACEMENT, text)


class Verbatim(str):
    """A question that enters the prompt with its surrounding whitespace, which others lose."""


def check_question_text(question: str) -> None:
    """Check that `question` is valid UTF-8.

    Raises:
        ConfigError: If `question` is not valid UTF-8.
    """
    if not is_utf8(question):
        raise ConfigError("the question is not valid UTF-8 text; type it again")


def visible(text: str) -> str:
    """Return `text` with a replacement character for each character in `UNSAFE`.

    Newlines and tabs are kept.
    """
    return UNSAFE.sub(_REPLACEMENT, text)


def one_line(text: str) -> str:
    """Return `visible(text)`, with spaces instead of newlines and tabs."""
    return visible(text.replace("\n", " ").replace("\t", " "))


def did_you_mean(name: str, known: Iterable[str], *, most: int = 2) -> str:
    """Return "did you mean A or B?", with up to `most` of the `known` names, or "" without any."""
    alike = similar_names(name, known, most=most)
    return f"did you mean {' or '.join(alike)}?" if alike else ""


def similar_names(name: str, known: Iterable[str], *, most: int = 2) -> list[str]:
    """Return up to `most` names from `known` that are similar to `name`, most similar first."""
    by_lower = {each.lower(): each for each in known}
    return [by_lower[each] for each in get_close_matches(name.lower(), by_lower, n=most)]
