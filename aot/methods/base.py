"""The contract between a method and everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aot.types import CompressedTokens, VisualTokens

__all__ = ["Method", "Needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What the encoder must record: saliency of these blocks (negative counts from the last), and whether
    an embedding of each frame is wanted."""

    saliency_layers: tuple[int, ...] = ()
    frame_embeddings: bool = False


class Method(Protocol):
    """Turns the visual tokens of a video into at most, or exactly, `budget` tokens."""

    @property
    def needs(self) -> Needs: ...

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens: ...
