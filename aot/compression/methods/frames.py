"""Baseline: fewer frames, each of them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.compression.methods.subset import evenly, keep_subset, pooled_cells
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["FewerFrames"]


@dataclass(frozen=True)
class FewerFrames:
    """As many whole frames as the budget pays for, evenly spread; the rest goes to one more, thinned."""

    card: ClassVar = Card("after pooling", remark="all tokens of fewer frames, evenly spread")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; the thinned frame is the last of those chosen."""
        frames, per_frame = pooled_cells(tokens)
        whole, rest = divmod(budget, per_frame)
        chosen = evenly(frames, whole + (rest > 0)) * per_frame
        cells = [torch.arange(per_frame)] * whole + [evenly(per_frame, rest)] * (rest > 0)
        kept = [first + own for first, own in zip(chosen.tolist(), cells, strict=True)]
        return keep_subset(tokens, torch.cat(kept) if kept else torch.arange(0))
