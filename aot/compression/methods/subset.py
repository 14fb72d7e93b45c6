"""Steps that most methods share: pooled inputs, budget checks, kept tokens with their sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import joined
from aot.errors import BudgetError
from aot.types import Clip, CompressedTokens, Role, SourceWeights, VisualTokens

__all__ = [
    "check_budget",
    "evenly",
    "joined_parts",
    "keep_subset",
    "kept_tokens",
    "least_ratio",
    "pooled_cells",
    "pooled_keys",
    "pooled_saliency",
    "refuse_below",
    "whole_video",
]


def pooled_cells(tokens: VisualTokens) -> tuple[int, int]:
    """Return (F, n): the number of frames, and of tokens per frame after pooling."""
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    return len(tokens.timestamps_s), rows * cols


def pooled_saliency(tokens: VisualTokens, layer: int) -> Tensor:
    """Return the attention received in block `layer`, pooled like the features: [F, n]."""
    return pool(tokens.saliency[layer][..., None], tokens.grid, tokens.pool)[..., 0]


def least_ratio(kept: int, total: int) -> float:
    """Return the least ratio, with three decimals, that leaves `kept` of `total` tokens."""
    # Rounded up, so that the ratio is enough.
    return math.ceil(1000 * kept / total) / 1000


def evenly(count: int, wanted: int) -> Tensor:
    """Return `wanted` evenly spaced indices of 0 .. count - 1, int64 and ascending."""
    # The middles of equally long stretches.
    return ((2 * torch.arange(wanted) + 1) * count) // max(2 * wanted, 1)


def pooled_keys(tokens: VisualTokens, layer: int) -> Tensor:
    """Return the keys of block `layer`, mean over heads, pooled like the features: [F, n, d]."""
    # Heads are averaged first, so that pooling reads less.
    keys = tokens.keys[layer]
    return pool(keys.mean(2, dtype=working_dtype(keys)), tokens.grid, tokens.pool)


def check_budget(tokens: VisualTokens, budget: int, least: int = 1, why: str = "") -> None:
    """Refuse a budget below `least` tokens; `why` is a clause of the message.

    Raises:
        BudgetError: If fewer than `least` tokens, or none, are to be kept.
    """
    refuse_below(least, budget, math.prod(pooled_cells(tokens)), why)


def refuse_below(least: int, budget: int, total: int, why: str = "") -> None:
    """Refuse a budget as `check_budget` does, for `total` tokens that need not exist yet.

    Raises:
        BudgetError: See `check_budget`.
    """
    if budget >= max(least, 1):
        return
    # The remedy is the least ratio that is enough.
    asked = f"{budget} of {total} tokens are too few{why}" if budget else f"the ratio leaves none of {total} tokens"
    raise BudgetError(f"{asked}; use --ratio {least_ratio(max(least, 1), total):g} or more")


def whole_video(tokens: VisualTokens, budget: int, clips: Sequence[Clip] | None = None) -> CompressedTokens | None:
    """Return all pooled tokens if the budget is enough for them, else None.

    Raises:
        BudgetError: If the budget is 0.
    """
    check_budget(tokens, budget)
    total = math.prod(pooled_cells(tokens))
    return keep_subset(tokens, torch.arange(total), clips) if budget >= total else None


def keep_subset(tokens: VisualTokens, kept: Tensor, clips: Sequence[Clip] | None = None) -> CompressedTokens:
    """Keep the pooled tokens `kept` [K], ascending indices into all F * n, unchanged.

    Raises:
        BudgetError: If nothing would be kept.
    """
    pooled = pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1)
    index = kept.to(pooled.device)
    return kept_tokens(tokens, pooled[index], index, clips=clips)


def kept_tokens(
    tokens: VisualTokens,
    features: Tensor,
    index: Tensor,
    *,
    mass: Tensor | None = None,
    clips: Sequence[Clip] | None = None,
    facts: Mapping[str, int | float | str | bool | None] | None = None,
    sources: SourceWeights | None = None,
) -> CompressedTokens:
    """Return features [K, D] as compressed tokens, in this order.

    Args:
        tokens: the visual tokens of the video.
        features: [K, D], of the kept tokens.
        index: [K], the pooled token (of all F * n) in whose cell each kept token is.
        mass: [K], the number of pooled tokens in each, 1 by default; a token above 1 is merged.
        clips: how frames are grouped; by default every frame is a clip.
        facts: plain values for the report.
        sources: what the tokens are made of, if `tokens` are traced.

    Raises:
        BudgetError: If nothing is kept.
    """
    check_budget(tokens, len(index))
    frames, per_frame = pooled_cells(tokens)
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    # Where every token is: frame, row and column of the pooled grid.
    cell = (index % per_frame).to(torch.int32)
    mass = torch.ones(len(index), device=features.device) if mass is None else mass.to(torch.float32)
    return CompressedTokens(
        features=features.to(tokens.features.dtype),
        frame=(index // per_frame).to(torch.int32),
        row=cell // cols,
        col=cell % cols,
        # A token with more than its own mass is merged.
        role=torch.where(mass > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8),
        mass=mass,
        grid=(rows, cols),
        timestamps_s=tokens.timestamps_s,
        clips=tuple(clips) if clips is not None else Clip.runs(frames, 1),
        facts=dict(facts or {}),
        sources=sources,
    )


def joined_parts(
    tokens: VisualTokens,
    parts: Iterable[tuple[Tensor, Tensor, Tensor, SourceWeights | None]],
    clips: Sequence[Clip],
    facts: Mapping[str, int | float | str | bool | None],
) -> CompressedTokens:
    """Return the parts as compressed tokens, one after the other.

    Args:
        tokens: the visual tokens of the video.
        parts: features [k, D], indices [k] into all F * n, masses [k], and sources if `tokens` are
            traced.
        clips: how frames are grouped.
        facts: plain values for the report.

    Raises:
        BudgetError: If nothing is kept.
    """
    features, index, mass, sources = zip(*parts, strict=True)
    return kept_tokens(
        tokens,
        torch.cat(features),
        torch.cat(index),
        mass=torch.cat(mass),
        clips=clips,
        facts=facts,
        sources=joined(sources) if tokens.traced else None,
    )
