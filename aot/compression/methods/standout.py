"""Standout: keep tokens unlike the video's mean, each other and the frame before.

This project's own method. It needs no attention, so it works with every encoder at no extra cost.
docs/methods.md describes how the method was found and how accurate it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import check_budget, kept_tokens
from aot.compression.ops.farthest import pick_farthest
from aot.compression.ops.grid import pool
from aot.compression.ops.products import centered_products, centered_with_last
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Distances", "Standout", "distances", "spread_gains"]

_CACHED_BYTES = 4 << 20  # features that the CPU converts and multiplies at a time
_LEAST_LENGTH = 1e-12  # shorter vectors have no direction
_LEAST_NOVELTY = 0.01  # nearer to a token of the frame before, it is a repetition; rounding is far below


@dataclass(frozen=True)
class Standout(CheckedSettings):
    """Keep the tokens with the highest gains of the whole video, unchanged and in raster order.

    Tokens are taken one by one in each frame. The gain of a token is its distinctiveness (1 -
    cosine similarity to the mean of the video) to the power `emphasis`, times its novelty (the
    distance to the nearest token of the frame before, from 0.01 to 1) to the power `novelty`, times
    its distance to the nearest token taken before in the same frame. So unusual frames keep more
    tokens, frames that repeat the last one keep fewer, and one object gets a second token only
    after every other object has its first.
    """

    card: ClassVar = Card(
        "after pooling",
        "this project",
        remark="the tokens least like the mean of the video and the frame before, spread over each frame",
    )
    needs: ClassVar = Needs()

    emphasis: float = setting(
        2.0, "The power to which distinctiveness is raised in the gain of a token.", least=0, most=8
    )

    novelty: float = setting(
        0.25,
        "The power to which novelty is raised in the gain of a token; with 0 the frame before does not matter.",
        least=0,
        most=8,
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = pooled.shape
        budget = min(budget, frames * per_frame)
        # 1. Compute how much every token differs from the mean of the video, from the frame before,
        # and from the other tokens of its frame.
        found = distances(pooled.detach(), with_last=self.novelty > 0)
        # 2. Compute the gains of each frame's tokens, in the order of selection.
        weight = found.distinct**self.emphasis
        if found.novelty is not None:
            weight *= found.novelty**self.novelty
        gains, cells = spread_gains(found.within, weight, budget)
        # 3. Keep the highest gains of the video. Gains never increase within a frame, so every
        # frame keeps its first selected tokens.
        greatest = gains.flatten().sort(descending=True, stable=True).indices[:budget]
        index = (greatest // gains.shape[1] * per_frame + cells.flatten()[greatest]).sort().values
        return kept_tokens(tokens, pooled.reshape(-1, width)[index], index)


@dataclass(frozen=True, slots=True)
class Distances:
    """How far the n tokens of F frames are from what they may repeat.

    All are 1 - cosine similarity, after the mean of all tokens is subtracted except for `distinct`.

    Attributes:
        distinct: [F, n] in [0, 2], to the mean of all tokens; 0 for a zero vector.
        within: [F, n, n] in [0, 2], between two tokens of a frame.
        novelty: [F, n] in [0.01, 1], to the nearest token of the frame before; 1 in the first
            frame. None if it was not computed.
    """

    distinct: Tensor
    within: Tensor
    novelty: Tensor | None


def distances(features: Tensor, *, with_last: bool) -> Distances:
    """Return the distances of tokens `features` [F, n, D]; with `with_last`, also their novelty."""
    dtype, (frames, per_frame, width) = working_dtype(features), features.shape
    # The CPU takes as many frames at a time as its cache holds: no copy of all features is made.
    at_once = max(1, _CACHED_BYTES // (per_frame * width * dtype.itemsize))
    at_once = at_once if features.device.type == "cpu" else frames
    parts = torch.split(features, at_once)
    mean = torch.stack([part.sum((0, 1), dtype=dtype) for part in parts]).sum(0) / (frames * per_frame)
    lengths, to_mean, within = (
        torch.cat(each) for each in zip(*(centered_products(part, mean) for part in parts), strict=True)
    )
    # 1. A zero vector has no direction; the last factor sets its distinctiveness to 0.
    cosine = to_mean / lengths.clamp_min(_LEAST_LENGTH) / mean.norm().clamp_min(_LEAST_LENGTH)
    distinct = (1 - cosine).clamp_(0, 2) * (lengths > 0)
    # 2. The diagonal of the products has the squared lengths.
    lengths = within.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().clamp_min_(_LEAST_LENGTH)
    within = within.div_(lengths[:, :, None]).div_(lengths[:, None]).neg_().add_(1).clamp_(0, 2)
    if not with_last:
        return Distances(distinct, within, None)
    # 3. Each part takes the last frame of the part before along.
    starts = range(0, frames - 1, at_once)
    ends = [min(first + at_once, frames - 1) for first in starts]
    nearest = [
        centered_with_last(features[first : end + 1], mean, to_mean[first : end + 1])
        .div_(lengths[first:end, None])
        .amax(2)
        for first, end in zip(starts, ends, strict=True)
    ]
    novelty = 1 - torch.cat([torch.zeros_like(lengths[:1]), *nearest]) / lengths
    return Distances(distinct, within, novelty.clamp_(_LEAST_NOVELTY, 1))


def spread_gains(distances: Tensor, weight: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Return gains and cells [F, steps] of each frame's tokens, in the order of greedy selection.

    Each step takes the token with the highest gain; ties go to the lower index (weighted
    farthest-point sampling). The gain of a token is its `weight` times the distance to the nearest
    token that was taken before in the same frame, so the gains of the steps never increase. In the
    first step of a frame, all distances are 2, the maximum.

    Args:
        distances: [F, n, n]; overwritten.
        weight: [F, n], not negative.
        budget: the number of highest gains that are needed; there are min(budget, n) steps, or
            fewer if later gains are all lower.
    """
    # A token that was taken has gain -1.
    limits = distances.mul_(weight[:, None])
    limits.diagonal(dim1=1, dim2=2).fill_(-1)
    return pick_farthest(2 * weight, limits, min(budget, weight.shape[1]), enough=budget)
