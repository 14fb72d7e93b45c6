"""Text that is not UTF-8: in words of a command and names of files, Python keeps such bytes as halves of characters
(PEP 383), which no tokenizer reads and no file in UTF-8 holds.
"""

from __future__ import annotations

import re

from aot.errors import ConfigError

__all__ = ["as_utf8", "check_question_text", "is_utf8"]

_HALF = re.compile("[\ud800-\udfff]")


def is_utf8(text: str) -> bool:
    """Return whether the text can be written as UTF-8."""
    return _HALF.search(text) is None


def as_utf8(text: str) -> str:
    """Return the text with the replacement character for each byte that was not UTF-8."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)


def check_question_text(question: str) -> None:
    """Check a question before the work that it is asked after.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if not is_utf8(question):
        raise ConfigError("the question is not valid UTF-8 text; type it again")
