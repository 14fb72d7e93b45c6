"""The contract between a method and everything else."""

from __future__ import annotations

from typing import Protocol

from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Method"]


class Method(Protocol):
    """Turns the visual tokens of a video into at most, or exactly, `budget` tokens."""

    @property
    def needs(self) -> Needs: ...

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens: ...
