"""The contract between a method and everything else."""

from __future__ import annotations

from typing import ClassVar, Protocol

from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Method"]


class Method(Protocol):
    """Turns the visual tokens of a video into `budget` tokens. The fields of its dataclass are its settings."""

    card: ClassVar[Card]

    @property
    def needs(self) -> Needs: ...

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens: ...
