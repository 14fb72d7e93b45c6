"""Baseline: keep all tokens of fewer frames."""

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
    """Keep as many whole frames as the budget allows, evenly spaced.

    The rest of the budget goes to evenly spaced tokens of one more frame.
    """

    card: ClassVar = Card("after pooling", remark="all tokens of fewer frames, evenly spaced")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; the last chosen frame may be partial."""
        frames, per_frame = pooled_cells(tokens)
        # Divide the budget into whole frames and the rest.
        whole, rest = divmod(budget, per_frame)
        chosen = evenly(frames, whole + (rest > 0)) * per_frame
        cells = [torch.arange(per_frame)] * whole + [evenly(per_frame, rest)] * (rest > 0)
        # Convert cells of the chosen frames to indices into all F * n.
        kept = [first + own for first, own in zip(chosen.tolist(), cells, strict=True)]
        return keep_subset(tokens, torch.cat(kept) if kept else torch.arange(0))
