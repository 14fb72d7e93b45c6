"""No compression: keep every pooled token, as in the stock model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.methods.subset import keep_all
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["NoCompression"]


@dataclass(frozen=True)
class NoCompression:
    """Keep all pooled tokens and ignore the budget; a ratio of 1 selects this baseline."""

    card: ClassVar = Card("nowhere", exact=False, remark="all tokens, as in the stock model")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep every pooled token, unchanged and in raster order."""
        return keep_all(tokens)
