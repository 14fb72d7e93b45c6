"""Provide steps that most methods share: pooled inputs, budget checks, and the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.ops.clips import CutClips
from aot.compression.ops.grid import pool, pooled_grid
from aot.compression.ops.local_windows import guarded, inside_of
from aot.compression.ops.read_later import Fact
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import chosen, joined
from aot.compression.ops.streaming_segments import frame_similarity, streaming_segments
from aot.compression.ops.uploads import uploaded
from aot.errors import BudgetError
from aot.types import Clip, CompressedTokens, Role, SourceWeights, VisualTokens

__all__ = [
    "LOCAL_WINDOWS",
    "Part",
    "check_budget",
    "early_segments",
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
    "without_sinks",
]


def pooled_cells(tokens: VisualTokens) -> tuple[int, int]:
    """Return (F, n), the number of frames and the number of tokens per frame after pooling."""
    rows, cols = pooled_grid(tokens.grid, tokens.pool)
    return len(tokens.timestamps_s), rows * cols


def pooled_saliency(tokens: VisualTokens, layer: int, guarded_for: int | None = None) -> Tensor:
    """Return the attention that each pooled token receives in tower block `layer`: [F, n].

    If `guarded_for` is a number of tokens to keep of the video, see `without_sinks`.
    """
    saliency = pool(tokens.saliency[layer][..., None], tokens.grid, tokens.pool)[..., 0]
    return saliency if guarded_for is None else without_sinks(tokens, saliency, guarded_for)


# The meaning of the setting `local_windows` of methods that rank tokens by attention.
LOCAL_WINDOWS = (
    "Guard static frames against attention sinks, as EarlyTom does: of as many equal windows as a frame keeps tokens "
    "in the mean, the most attended token of each comes first."
)


def without_sinks(tokens: VisualTokens, saliency: Tensor, budget: int) -> Tensor:
    """Return the pooled `saliency` [F, n], in which sinks do not come first in static frames.

    This is the rule of EarlyTom (arXiv 2605.30010), with its segments and as many windows as a
    frame keeps tokens in the mean, of `budget` in all; see `aot.compression.ops.local_windows`.
    """
    segments = early_segments(tokens, pool(tokens.features, tokens.grid, tokens.pool))
    frames, cells = saliency.shape
    windows = min(max(1, round(budget / frames)), cells)
    return guarded(saliency, inside_of(segments, saliency.device), windows)


def early_segments(
    tokens: VisualTokens, pooled: Tensor, threshold: float = 0.6, window: int = 8, ema: float = 0.9
) -> Sequence[Clip]:
    """Return EarlyTom's segments: those of the tower, if it has merged frames, else of `pooled`.

    `pooled` is [F, n, D]; for the other arguments see `streaming_segments`.
    """
    if tokens.merged_frames is not None and tokens.merged_frames.segments is not None:
        return tokens.merged_frames.segments
    return streaming_segments(frame_similarity(pooled), threshold, window, ema)


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
    index = uploaded(kept, pooled.device)
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
        clips=Clip.runs(frames, 1) if clips is None else clips if isinstance(clips, CutClips) else tuple(clips),
        facts={} if facts is None else facts,
        sources=sources,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """Hold k tokens, of which some may be padding.

    Attributes:
        features: [k, D].
        index: int64 [k], the indices of the tokens among F * n.
        mass: [k].
        order: int64 [k], numbers that sort the tokens of all parts.
        valid: bool [k], false for padding.
        sources: the sources of the valid tokens; None if the video is not traced.
    """

    features: Tensor
    index: Tensor
    mass: Tensor
    order: Tensor
    valid: Tensor
    sources: SourceWeights | None = None


def joined_parts(
    tokens: VisualTokens, parts: Sequence[Part], total: int, clips: Sequence[Clip], facts: Mapping[str, Fact]
) -> CompressedTokens:
    """Return the `total` tokens of all `parts`, sorted, as compressed tokens.

    Tokens with the same `Part.order` stay in the order of `parts`.

    Args:
        tokens: the visual tokens of the video.
        parts: the parts, with `total` valid tokens.
        total: K.
        clips: the clips of the video.
        facts: plain values for the report.

    Raises:
        BudgetError: If `total` is 0.
    """
    features, index, mass, order, valid = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("features", "index", "mass", "order", "valid")
    )
    # Padding comes last.
    rank = order.masked_fill(~valid, torch.iinfo(order.dtype).max).sort(stable=True).indices[:total]
    sources = None
    if tokens.traced:
        found = joined([part.sources for part in parts if part.sources is not None])
        sources = chosen(found, (valid.cumsum(0) - 1)[rank])
    return kept_tokens(tokens, features[rank], index[rank], mass=mass[rank], clips=clips, facts=facts, sources=sources)
