"""VidCom2: frames, and tokens in them, that stand out from the video's centre keep more (arXiv 2505.14454)."""

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
from aot.config.strict import check
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["VidCom2", "centre_likeness", "frame_shares", "steady_directions"]

_VARIANCES = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@dataclass(frozen=True)
class VidCom2:
    """Tokens that are least like the centres of the video and of their frame.

    channel_share: share of the channels, those of least variance, in which tokens are compared. temperature: how evenly
    frames share the budget; the less, the more goes to the most unusual frame. paper_exact: round each frame's share of
    the ratio on its own, so that the number kept is only near the budget.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2505.14454, EMNLP 2025",
        remark="the tokens least like the means of the video and of their frame; unusual frames keep more",
    )
    needs: ClassVar = Needs()

    channel_share: float = 0.5
    temperature: float = 0.01
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(
            channel_share=(0 < self.channel_share <= 1, f"must be in (0, 1], got {self.channel_share}"),
            temperature=(self.temperature > 0, f"must be above 0, got {self.temperature}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order, unchanged.

        Frames share the budget as published, but by largest remainder; as long as it goes round, each has a token.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        directions = steady_directions(pooled, self.channel_share)
        of_video = centre_likeness(directions, directions.mean((0, 1)))
        of_frame = centre_likeness(directions, directions.mean(1, keepdim=True))
        ratio = TokenBudget.ratio_of(budget, frames * per_frame)
        shares = frame_shares(of_video, min(ratio, 1.0), self.temperature)
        if self.paper_exact:
            counts = (shares * per_frame).round().clamp(1, per_frame)
        else:
            total, least = min(budget, frames * per_frame), int(budget >= frames)
            counts = torch.tensor(bounded_shares(total, shares.tolist(), least, per_frame))
        index = least_per_frame(of_video + of_frame, counts).sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index)


def steady_directions(pooled: Tensor, channel_share: float) -> Tensor:
    """pooled [F, n, D] as unit vectors [F, n, C] in the C = D * channel_share channels (at least 1) that vary least.

    Population variance over all tokens; of equal channels the lower (VidCom2, steps 1 and 2).
    """
    values = pooled.to(working_dtype(pooled))
    variance = values.flatten(0, 1).var(0, correction=0)
    channels = variance.sort(stable=True).indices[: max(1, int(len(variance) * channel_share))].sort().values
    return functional.normalize(values[..., channels], dim=-1)


def centre_likeness(directions: Tensor, centre: Tensor) -> Tensor:
    """Sum of five Gaussian kernels of the distance to `centre` (broadcast over directions [F, n, C]): [F, n] in (0, 5].

    VidCom2, step 3; the centre is a mean of unit vectors, shorter than one.
    """
    squared = (directions - centre).square().sum(-1)
    return torch.stack([(-squared / (2 * variance)).exp() for variance in _VARIANCES]).sum(0)


def frame_shares(of_video: Tensor, ratio: float, temperature: float) -> Tensor:
    """Share of its own tokens that each frame keeps, [F] in (0, 1], `ratio` on average (VidCom2, step 4).

    of_video [F, n]: likeness to the video's centre; frames that are less like it get more.
    """
    uniqueness = -of_video.mean(1)
    weight = ((uniqueness - uniqueness.max()) / temperature).softmax(0)
    return (ratio * (1 + weight - 1 / len(weight))).clamp(max=1)
