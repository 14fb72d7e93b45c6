"""Baseline: keep evenly spaced tokens of the video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.methods.subset import evenly, keep_subset, pooled_cells
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """Keep tokens that are evenly spaced in the raster order of the whole video."""

    card: ClassVar = Card("after pooling", remark="evenly spaced tokens of the whole video")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order."""
        frames, per_frame = pooled_cells(tokens)
        return keep_subset(tokens, evenly(frames * per_frame, budget))
