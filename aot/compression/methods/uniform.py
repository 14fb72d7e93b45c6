"""Baseline: every so manyth token of the video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.methods.subset import evenly, keep_subset, pooled_cells
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """Even strides through all F * n tokens, frame by frame and row by row."""

    card: ClassVar = Card("after pooling", remark="tokens at even strides through the whole video")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens."""
        frames, per_frame = pooled_cells(tokens)
        return keep_subset(tokens, evenly(frames * per_frame, budget))
