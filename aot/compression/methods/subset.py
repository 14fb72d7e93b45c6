"""Provide steps that most methods share: pooled inputs, budget checks, and the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.read_later import Fact
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import joined
from aot.errors import BudgetError
from aot.types import Clip, CompressedTokens, Role, SourceWeights, VisualTokens

__all__ = [
    "check_budget",
    "evenly",
    "joined_parts",
    "keep_all",
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
    """Return (F, n), the number of frames and the number of tokens per frame after pooling."""
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    return len(tokens.timestamps_s), rows * cols


def pooled_saliency(tokens: VisualTokens, layer: int) -> Tensor:
    """Return the attention that each pooled token receives in tower block `layer`: [F, n]."""
    return pool(tokens.saliency[layer][..., None], tokens.grid, tokens.pool)[..., 0]


def least_ratio(kept: int, total: int) -> float:
    """Return the lowest ratio with three decimals that keeps at least `kept` of `total` tokens."""
    # Rounded up, because a lower ratio would keep fewer tokens.
    return math.ceil(1000 * kept / total) / 1000


def evenly(count: int, wanted: int) -> Tensor:
    """Return `wanted` evenly spaced indices in 0 .. count - 1: int64, ascending."""
    # Divide the range into `wanted` equal intervals and take the middle of each.
    return ((2 * torch.arange(wanted) + 1) * count) // max(2 * wanted, 1)


def pooled_keys(tokens: VisualTokens, layer: int) -> Tensor:
    """Return the pooled keys of tower block `layer`, averaged over the heads: [F, n, d]."""
    # Average over heads first, because pooling then has less to compute.
    keys = tokens.keys[layer]
    return pool(keys.mean(2, dtype=working_dtype(keys)), tokens.grid, tokens.pool)


def check_budget(tokens: VisualTokens, budget: int, least: int = 1, why: str = "") -> None:
    """Check that `budget` is at least `least` and 1; `why` follows "too few" in the error message.

    Raises:
        BudgetError: If `budget` is below `least` or below 1.
    """
    refuse_below(least, budget, math.prod(pooled_cells(tokens)), why)


def refuse_below(least: int, budget: int, total: int, why: str = "") -> None:
    """Check that `budget` is at least `least` and at least 1, for a video of `total` tokens.

    Unlike `check_budget`, this needs no encoded video. `why` follows "too few" in the message.

    Raises:
        BudgetError: If `budget` is below `least` or below 1.
    """
    if budget >= max(least, 1):
        return
    # The message suggests the lowest ratio that is enough.
    asked = f"{budget} of {total} tokens are too few{why}" if budget else f"the ratio leaves none of {total} tokens"
    raise BudgetError(f"{asked}; use --ratio {least_ratio(max(least, 1), total):g} or more")


def whole_video(tokens: VisualTokens, budget: int, clips: Sequence[Clip] | None = None) -> CompressedTokens | None:
    """Return all pooled tokens if `budget` is at least their number, else None.

    Raises:
        BudgetError: If `budget` is 0.
    """
    check_budget(tokens, budget)
    return keep_all(tokens, clips) if budget >= math.prod(pooled_cells(tokens)) else None


def keep_all(tokens: VisualTokens, clips: Sequence[Clip] | None = None) -> CompressedTokens:
    """Return all pooled tokens, unchanged and in raster order."""
    pooled = pool(tokens.features, tokens.grid, tokens.pool).flatten(0, 1)
    return kept_tokens(tokens, pooled, torch.arange(len(pooled), device=pooled.device), clips=clips)


def keep_subset(tokens: VisualTokens, kept: Tensor, clips: Sequence[Clip] | None = None) -> CompressedTokens:
    """Return the pooled tokens with the indices `kept` [K], ascending in 0 .. F * n - 1, unchanged.

    Raises:
        BudgetError: If `kept` is empty.
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
    facts: Mapping[str, Fact] | None = None,
    sources: SourceWeights | None = None,
) -> CompressedTokens:
    """Return the kept tokens as `CompressedTokens`, in the order of `features`.

    Args:
        tokens: the visual tokens of the video.
        features: [K, D], the features of the kept tokens.
        index: [K], the index of each kept token among the F * n pooled tokens: frame * n + cell.
        mass: [K], the number of pooled tokens that each kept token represents; None if all are 1.
            A token with a mass above 1 has the role MERGED.
        clips: the clips of the video; None makes every frame a clip.
        facts: plain values for the report.
        sources: the source weights of the kept tokens; None if `tokens` is not traced.

    Raises:
        BudgetError: If K is 0.
    """
    check_budget(tokens, len(index))
    frames, per_frame = pooled_cells(tokens)
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    # Split the index into frame, row and column of the pooled grid.
    cell = (index % per_frame).to(torch.int32)
    mass = torch.ones(len(index), device=features.device) if mass is None else mass.to(torch.float32)
    return CompressedTokens(
        features=features.to(tokens.features.dtype),
        frame=(index // per_frame).to(torch.int32),
        row=cell // cols,
        col=cell % cols,
        # A token with a mass above 1 was merged.
        role=torch.where(mass > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8),
        mass=mass,
        grid=(rows, cols),
        timestamps_s=tokens.timestamps_s,
        clips=tuple(clips) if clips is not None else Clip.runs(frames, 1),
        facts={} if facts is None else facts,
        sources=sources,
    )


def joined_parts(
    tokens: VisualTokens,
    parts: Iterable[tuple[Tensor, Tensor, Tensor, SourceWeights | None]],
    clips: Sequence[Clip],
    facts: Mapping[str, Fact],
) -> CompressedTokens:
    """Return the concatenated `parts` as compressed tokens.

    Args:
        tokens: the visual tokens of the video.
        parts: for each part, the features [k, D], indices [k] among the F * n pooled tokens, masses
            [k] and sources (None if `tokens` is not traced) of its tokens.
        clips: the clips of the video.
        facts: plain values for the report.

    Raises:
        BudgetError: If all parts are empty.
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
