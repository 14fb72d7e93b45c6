"""What methods that only select have in common: kept tokens are the model's pooled tokens, unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aot.core.grid import pool, pooled_grid
from aot.errors import ConfigError
from aot.types import Clip, CompressedTokens, Role, VisualTokens

__all__ = ["evenly", "keep_subset", "least_ratio", "pooled_cells", "pooled_saliency"]


def pooled_cells(tokens: VisualTokens) -> tuple[int, int]:
    """(F, n): frames, and tokens per frame after pooling."""
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    return tokens.features.shape[0], rows * cols


def pooled_saliency(tokens: VisualTokens, layer: int) -> Tensor:
    """Attention that each pooled token received in block `layer`, the mean of its patches' [F, n]."""
    return pool(tokens.saliency[layer][..., None], tokens.grid, tokens.pool)[..., 0]


def least_ratio(kept: int, total: int) -> float:
    """The least ratio with three decimals that leaves `kept` of `total` tokens."""
    return math.ceil(1000 * kept / total) / 1000


def evenly(count: int, wanted: int) -> Tensor:
    """`wanted` of 0 .. count - 1, the middles of as many equal stretches, int64 and ascending."""
    return ((2 * torch.arange(wanted) + 1) * count) // max(2 * wanted, 1)


def keep_subset(tokens: VisualTokens, kept: Tensor) -> CompressedTokens:
    """Keep the pooled tokens `kept` [K], ascending indices into all F * n of them.

    Raises:
        ConfigError: nothing would be kept.
    """
    frames, per_frame = pooled_cells(tokens)
    if not len(kept):
        total = frames * per_frame
        raise ConfigError(f"the ratio leaves none of {total} tokens; use --ratio {least_ratio(1, total):g} or more")
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    pooled = pool(tokens.features, tokens.grid, tokens.pool)
    index = kept.to(pooled.device)
    cell = (index % per_frame).to(torch.int32)
    return CompressedTokens(
        features=pooled.flatten(0, 1)[index],
        frame=(index // per_frame).to(torch.int32),
        row=cell // cols,
        col=cell % cols,
        role=torch.full_like(cell, Role.KEPT, dtype=torch.uint8),
        mass=torch.ones(len(index), device=pooled.device),
        grid=(rows, cols),
        timestamps_s=tokens.timestamps_s,
        clips=Clip.runs(frames, 1),
    )
