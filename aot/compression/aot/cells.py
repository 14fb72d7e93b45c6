"""List the kept cells of the pooled grid, frame by frame, in one padded table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeptCells"]


@dataclass(frozen=True, slots=True)
class KeptCells:
    """The kept cells of every frame, padded to the number P of the frame that keeps most.

    Attributes:
        index: [F, P], cells of the frame in raster order, then padding.
        valid: bool [F, P], false for padding.
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def build(cls, kept: Tensor) -> KeptCells:
        """Return the cells of the bool mask [F, n]."""
        counts = kept.sum(1)
        fullest = int(counts.max())
        # The sort is stable, so kept cells come first and stay in raster order.
        index = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :fullest]
        return cls(index, torch.arange(fullest, device=kept.device) < counts[:, None])
