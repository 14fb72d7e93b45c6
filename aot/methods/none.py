"""No compression: every pooled token, as the stock model sees them."""

from __future__ import annotations

import torch

from aot.core.grid import pool, pooled_grid
from aot.types import Clip, CompressedTokens, Needs, Role, VisualTokens

__all__ = ["NoCompression"]


class NoCompression:
    """Keeps all F * n tokens whatever the budget; the baseline, and what ratio 1 means."""

    needs = Needs()

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = pooled.shape
        rows, cols = pooled_grid(tokens.grid, tokens.pool)
        index = torch.arange(frames * per_frame, dtype=torch.int32, device=pooled.device)
        cell = index % per_frame
        return CompressedTokens(
            features=pooled.reshape(-1, width),
            frame=index // per_frame,
            row=cell // cols,
            col=cell % cols,
            role=torch.full_like(index, Role.KEPT, dtype=torch.uint8),
            mass=torch.ones(len(index), device=pooled.device),
            grid=(rows, cols),
            timestamps_s=tokens.timestamps_s,
            clips=Clip.runs(frames, 1),
        )
