"""No compression: every pooled token, as the stock model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.compression.methods.subset import keep_subset, pooled_cells
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["NoCompression"]


@dataclass(frozen=True)
class NoCompression:
    """Keeps all F * n tokens whatever the budget; the baseline, and what ratio 1 means."""

    card: ClassVar = Card("nowhere", exact=False, remark="all tokens, as the stock model sees them")
    needs: ClassVar = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        frames, per_frame = pooled_cells(tokens)
        return keep_subset(tokens, torch.arange(frames * per_frame))
