"""Standout: keep tokens that differ from the video's mean and from each other within a frame.

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
from aot.compression.ops.products import centered_products
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Standout", "distinctiveness", "spread_gains"]

_CACHED_BYTES = 4 << 20  # features that the CPU converts and multiplies at a time
_LEAST_LENGTH = 1e-12  # shorter vectors have no direction


@dataclass(frozen=True)
class Standout(CheckedSettings):
    """Keep the tokens with the highest gains of the whole video, unchanged and in raster order.

    Tokens are taken one by one in each frame. The gain of a token is its distinctiveness (1 -
    cosine similarity to the mean of the video) to the power `emphasis`, times its distance to the
    nearest token taken before in the same frame. So unusual frames keep more tokens, and one object
    gets a second token only after every other object has its first.
    """

    card: ClassVar = Card(
        "after pooling",
        "this project",
        remark="the tokens least like the mean of the video, spread over the content of each frame",
    )
    needs: ClassVar = Needs()

    emphasis: float = setting(
        2.0, "The power to which distinctiveness is raised in the gain of a token.", least=0, most=8
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
        # 1. Compute how much every token differs from the mean of the video, and how far tokens of
        # a frame are from each other.
        distinct, distances = distinctiveness(pooled.detach())
        # 2. Compute the gains of each frame's tokens, in the order of selection.
        gains, cells = spread_gains(distances, distinct**self.emphasis, budget)
        # 3. Keep the highest gains of the video. Gains never increase within a frame, so every
        # frame keeps its first selected tokens.
        greatest = gains.flatten().sort(descending=True, stable=True).indices[:budget]
        index = (greatest // gains.shape[1] * per_frame + cells.flatten()[greatest]).sort().values
        return kept_tokens(tokens, pooled.reshape(-1, width)[index], index)


def distinctiveness(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinctiveness of tokens, and the distances within frames; both are in [0, 2].

    Distinctiveness [F, n] is 1 - cosine similarity to the mean of all tokens; a zero vector has
    distinctiveness 0. A distance [F, n, n] is 1 - cosine similarity of two tokens of a frame, after
    the mean of all tokens is subtracted. `features` is [F, n, D].
    """
    dtype, (frames, per_frame, width) = working_dtype(features), features.shape
    # The CPU takes as many frames at a time as its cache holds: no copy of all features is made.
    at_once = max(1, _CACHED_BYTES // (per_frame * width * dtype.itemsize))
    parts = torch.split(features, at_once if features.device.type == "cpu" else frames)
    mean = torch.stack([part.sum((0, 1), dtype=dtype) for part in parts]).sum(0) / (frames * per_frame)
    lengths, to_mean, products = (
        torch.cat(each) for each in zip(*(centered_products(part, mean) for part in parts), strict=True)
    )
    # 1. A zero vector has no direction; the last factor sets its distinctiveness to 0.
    cosine = to_mean / lengths.clamp_min(_LEAST_LENGTH) / mean.norm().clamp_min(_LEAST_LENGTH)
    distinct = (1 - cosine).clamp_(0, 2) * (lengths > 0)
    # 2. The diagonal of the products has the squared lengths.
    lengths = products.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().clamp_min_(_LEAST_LENGTH)
    return distinct, products.div_(lengths[:, :, None]).div_(lengths[:, None]).neg_().add_(1).clamp_(0, 2)


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
