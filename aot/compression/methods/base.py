"""Define the protocol that every compression method implements."""

from __future__ import annotations

from typing import ClassVar, Protocol

from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Method"]


class Method(Protocol):
    """Compress the visual tokens of a video to a token budget.

    The fields of a method's dataclass are its settings.
    """

    card: ClassVar[Card]

    @property
    def needs(self) -> Needs:
        """Return the encoder outputs and any merging in the encoder that the method needs."""
        ...

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Return the kept tokens; exactly `budget` tokens if `card.exact` is true."""
        ...
