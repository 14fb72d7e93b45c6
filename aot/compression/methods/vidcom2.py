"""VidCom2 (arXiv 2505.14454): keep unusual tokens, and more tokens of unusual frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens
from aot.compression.ops.grid import pool
from aot.compression.ops.quotas import bounded_shares, least_per_frame
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["VidCom2", "center_likeness", "frame_shares", "steady_directions"]

_VARIANCES = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@dataclass(frozen=True)
class VidCom2(CheckedSettings):
    """Keep the tokens that are least similar to the mean of the video and of their frame."""

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2505.14454, EMNLP 2025",
        remark="the tokens least like the mean of the video and of their frame; unusual frames keep more",
    )
    needs: ClassVar = Needs()

    channel_share: float = setting(
        0.5, "Share of the channels, those of least variance, in which tokens are compared.", above=0, most=1
    )
    temperature: float = setting(
        0.01, "How evenly frames share the budget; the lower it is, the more goes to the most unusual frame.", above=0
    )
    paper_exact: bool = setting(
        False, "Round each frame's count on its own, so that the total is only near the budget."
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order.

        Frames share the budget as published, but counts are rounded by largest remainder. Every
        frame keeps at least one token if `budget` is at least the number of frames.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        # 1. Compare tokens in the channels of least variance.
        directions = steady_directions(pooled, self.channel_share)
        # 2. Compute the similarity to the mean of the video and to the mean of the frame.
        of_video = center_likeness(directions, directions.mean((0, 1)))
        of_frame = center_likeness(directions, directions.mean(1, keepdim=True))
        # 3. Decide how many tokens every frame keeps.
        ratio = TokenBudget.ratio_of(budget, frames * per_frame)
        shares = frame_shares(of_video, min(ratio, 1.0), self.temperature)
        if self.paper_exact:
            counts = (shares * per_frame).round().clamp(1, per_frame)
            total = int(counts.sum())
        else:
            total, least = min(budget, frames * per_frame), int(budget >= frames)
            counts = bounded_shares(total, shares, least, per_frame)
        # 4. Keep the least similar tokens of every frame, in raster order.
        index = least_per_frame(of_video + of_frame, counts, total).sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index)


def steady_directions(pooled: Tensor, channel_share: float) -> Tensor:
    """Return unit vectors [F, n, C]: `pooled` [F, n, D] in the C channels of least variance.

    C = max(1, int(D * channel_share)). The variance is the population variance over all tokens;
    ties go to the lower channel (VidCom2, steps 1 and 2).
    """
    values = pooled.to(working_dtype(pooled))
    variance = values.flatten(0, 1).var(0, correction=0)
    # The selected channels stay in their original order.
    channels = variance.sort(stable=True).indices[: max(1, int(len(variance) * channel_share))].sort().values
    return functional.normalize(values[..., channels], dim=-1)


def center_likeness(directions: Tensor, center: Tensor) -> Tensor:
    """Return the similarity of each token to `center`, a sum of five Gaussians: [F, n] in (0, 5].

    The distance is from `directions` [F, n, C] to `center` (broadcast), a mean of unit vectors that
    is not normalized again, so its length is at most 1 (VidCom2, step 3).
    """
    squared = (directions - center).square().sum(-1)
    return torch.stack([(-squared / (2 * variance)).exp() for variance in _VARIANCES]).sum(0)


def frame_shares(of_video: Tensor, ratio: float, temperature: float) -> Tensor:
    """Return [F] in (0, 1], the share of tokens that each frame keeps (VidCom2, step 4).

    The mean over the frames is `ratio`, unless a share is clamped to 1. `of_video` [F, n] is each
    token's similarity to the mean of the video; frames that are less similar keep more tokens.
    """
    # The maximum is subtracted as in the published code; this does not change the softmax.
    uniqueness = -of_video.mean(1)
    weight = ((uniqueness - uniqueness.max()) / temperature).softmax(0)
    return (ratio * (1 + weight - 1 / len(weight))).clamp(max=1)
