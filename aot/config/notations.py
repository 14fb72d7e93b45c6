"""Parse numbers as people write them: times (1:02:03.5, 1m30s, 90s) and shares (10%)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

__all__ = ["Notation", "Seconds", "Share", "read_seconds", "read_share"]

_NUMBER = r"[0-9]+(?:[.][0-9]*)?"
_CLOCK = re.compile(rf"(?:(?:([0-9]+):)?([0-9]+):)?({_NUMBER})")
_UNITS = re.compile(rf"(?:({_NUMBER})\s*h)?\s*(?:({_NUMBER})\s*m(?:in)?)?\s*(?:({_NUMBER})\s*s(?:ec)?)?")
_PERCENT = re.compile(rf"({_NUMBER})\s*%")


@dataclass(frozen=True, slots=True)
class Notation:
    """A notation of numbers: `words` describes it; `read` parses it (None for any other text)."""

    words: str
    read: Callable[[str], float | None]


def read_seconds(text: str) -> float | None:
    """Return the seconds of a time such as 1:02:03.5 or 1m30s, or None for other text."""
    text = text.strip().lower()
    clock = _CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        carries = (clock[2] and seconds >= 60) or (clock[1] and minutes >= 60)  # 1:75 is a mistake, not 2:15
        return None if carries else 3600 * hours + 60 * minutes + seconds
    units = _UNITS.fullmatch(text) if text else None
    if units is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in units.groups())
    return 3600 * hours + 60 * minutes + seconds


def read_share(text: str) -> float | None:
    """Return the share that a percentage states (0.125 for "12.5%"), or None for other text."""
    percent = _PERCENT.fullmatch(text.strip())
    return float(Decimal(percent[1]).scaleb(-2)) if percent else None


Seconds = Annotated[float, Notation("a time such as 90, 90s, 1m30s or 1:02:03.5", read_seconds)]
Share = Annotated[float, Notation("a number such as 0.1 or 10%", read_share)]
