"""List the kept cells of the pooled grid, frame by frame, in one padded table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeptCells"]


@dataclass(frozen=True, slots=True)
class KeptCells:
    """Hold the kept cells of every frame; rows are padded to P, the most kept cells of a frame.

    Attributes:
        index: [F, P], the indices of each frame's kept cells in raster order, then padding.
        valid: bool [F, P], false for padding.
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def build(cls, kept: Tensor) -> KeptCells:
        """Return the table of the cells that are true in `kept`, bool [F, n]."""
        counts = kept.sum(1)
        fullest = int(counts.max())
        # The sort is stable, so kept cells come first and stay in raster order.
        index = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :fullest]
        return cls(index, torch.arange(fullest, device=kept.device) < counts[:, None])
