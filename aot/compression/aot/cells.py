"""The cells of the pooled grid that take part, frame by frame, in one padded table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeptCells"]


@dataclass(frozen=True, slots=True)
class KeptCells:
    """Kept cells of every frame, padded to those of the fullest (P). index: [F, P], in raster order, then padding;
    valid: bool [F, P].
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def build(cls, kept: Tensor) -> KeptCells:
        """From the bool mask [F, n]."""
        counts = kept.sum(1)
        fullest = int(counts.max())
        index = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :fullest]
        return cls(index, torch.arange(fullest, device=kept.device) < counts[:, None])
