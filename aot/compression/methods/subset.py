"""What methods have in common: the model's pooled tokens, and kept ones with where they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.errors import BudgetError
from aot.types import Clip, CompressedTokens, Provenance, Role, VisualTokens

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
    """(F, n): frames, and tokens per frame after pooling."""
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    return len(tokens.timestamps_s), rows * cols


def pooled_saliency(tokens: VisualTokens, layer: int) -> Tensor:
    """Attention that each pooled token received in block `layer`, the mean of its patches' [F, n]."""
    return pool(tokens.saliency[layer][..., None], tokens.grid, tokens.pool)[..., 0]


def least_ratio(kept: int, total: int) -> float:
    """The least ratio with three decimals that leaves `kept` of `total` tokens."""
    return math.ceil(1000 * kept / total) / 1000


def evenly(count: int, wanted: int) -> Tensor:
    """`wanted` of 0 .. count - 1, the middles of as many equal stretches, int64 and ascending."""
    return ((2 * torch.arange(wanted) + 1) * count) // max(2 * wanted, 1)


def pooled_keys(tokens: VisualTokens, layer: int) -> Tensor:
    """[F, n, d], the mean of the heads' keys in a block, at the pooled grid."""
    keys = tokens.keys[layer]
    return pool(keys.mean(2, dtype=working_dtype(keys)), tokens.grid, tokens.pool)


def check_budget(tokens: VisualTokens, budget: int, least: int = 1, why: str = "") -> None:
    """
    Raises:
        BudgetError: fewer than `least` tokens are asked for; `why` (a clause) is part of the message.
    """
    refuse_below(least, budget, math.prod(pooled_cells(tokens)), why)


def refuse_below(least: int, budget: int, total: int, why: str = "") -> None:
    """As `check_budget`, for `total` tokens that need not be there yet."""
    if budget >= max(least, 1):
        return
    asked = f"{budget} of {total} tokens are too few{why}" if budget else f"the ratio leaves none of {total} tokens"
    raise BudgetError(f"{asked}; use --ratio {least_ratio(max(least, 1), total):g} or more")


def whole_video(tokens: VisualTokens, budget: int, clips: Sequence[Clip] | None = None) -> CompressedTokens | None:
    """All pooled tokens where the budget is enough for them, else None.

    Raises:
        BudgetError: the budget is 0.
    """
    check_budget(tokens, budget)
    total = math.prod(pooled_cells(tokens))
    return keep_subset(tokens, torch.arange(total), clips) if budget >= total else None


def keep_subset(tokens: VisualTokens, kept: Tensor, clips: Sequence[Clip] | None = None) -> CompressedTokens:
    """Keep the pooled tokens `kept` [K], ascending indices into all F * n of them, unchanged.

    Raises:
        BudgetError: nothing would be kept.
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
    provenance: Callable[[], Provenance] | None = None,
) -> CompressedTokens:
    """Features [K, D] as kept tokens, in this order, each at its place `index` [K] of all F * n pooled ones.

    mass [K]: for how many pooled tokens each stands (1 unless given); above 1 it is a merged token. clips: how the
    frames were grouped, each on its own unless given. provenance: what they are made of, told on request; it is to hold
    labels of tokens, not their features.

    Raises:
        BudgetError: there is none.
    """
    check_budget(tokens, len(index))
    frames, per_frame = pooled_cells(tokens)
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    cell = (index % per_frame).to(torch.int32)
    mass = torch.ones(len(index), device=features.device) if mass is None else mass.to(torch.float32)
    return CompressedTokens(
        features=features.to(tokens.features.dtype),
        frame=(index // per_frame).to(torch.int32),
        row=cell // cols,
        col=cell % cols,
        role=torch.where(mass > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8),
        mass=mass,
        grid=(rows, cols),
        timestamps_s=tokens.timestamps_s,
        clips=tuple(clips) if clips is not None else Clip.runs(frames, 1),
        facts=dict(facts or {}),
        provenance=provenance,
    )


def joined_parts(
    tokens: VisualTokens,
    parts: Iterable[tuple[Tensor, Tensor, Tensor, Callable[[], Shares]]],
    clips: Sequence[Clip],
    facts: Mapping[str, int | float | str | bool | None],
) -> CompressedTokens:
    """Kept tokens, one part after the other: features [k, D], index [k], mass [k], and what works out what they are
    made of.

    Raises:
        BudgetError: there is none.
    """
    features, index, mass, made_of = zip(*parts, strict=True)
    return kept_tokens(
        tokens,
        torch.cat(features),
        torch.cat(index),
        mass=torch.cat(mass),
        clips=clips,
        facts=facts,
        provenance=lambda: Shares.joined([each() for each in made_of]).provenance(),
    )
