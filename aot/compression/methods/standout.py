"""Standout: keep tokens that differ from the video's mean and from each other within a frame.

This project's own method. It needs no attention, so it works with every encoder at no extra cost.
docs/methods.md describes how the method was found and how accurate it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens
from aot.compression.ops.grid import pool
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Standout", "distinctiveness", "spread_gains"]


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
        # 1. Compute how much every token differs from the mean of the video.
        weight = distinctiveness(pooled) ** self.emphasis
        # 2. Compute the gains of each frame's tokens, in the order of selection.
        gains, cells = spread_gains(pooled, weight, min(budget, per_frame))
        # 3. Keep the highest gains of the video. Gains never increase within a frame, so every
        # frame keeps its first selected tokens.
        greatest = gains.flatten().sort(descending=True, stable=True).indices[:budget]
        index = (greatest // gains.shape[1] * per_frame + cells.flatten()[greatest]).sort().values
        return kept_tokens(tokens, pooled.reshape(-1, width)[index], index)


def distinctiveness(features: Tensor) -> Tensor:
    """Return 1 - cosine similarity to the mean of all tokens: [F, n] in [0, 2].

    `features` is [F, n, D]. A zero vector has distinctiveness 0.
    """
    values = features.to(working_dtype(features))
    # A zero vector has no direction; the last factor sets its distinctiveness to 0.
    directions, mean = functional.normalize(values, dim=-1), functional.normalize(values.mean((0, 1)), dim=0)
    return (1 - directions @ mean).clamp_(0, 2) * (directions != 0).any(-1)


def spread_gains(features: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return gains and cells [F, most] of each frame's tokens, in the order of greedy selection.

    Each step takes the token with the highest gain; ties go to the lower index (weighted
    farthest-point sampling). The gain of a token is its `weight` times the distance to the nearest
    token that was taken before in the same frame, so the gains of the steps never increase. A
    distance is 1 - cosine similarity, after the mean of all tokens is subtracted. In the first
    step of a frame, all distances are 2, the maximum.

    Args:
        features: [F, n, D].
        weight: [F, n], not negative.
        most: the number of steps, at most n.
    """
    values = features.to(working_dtype(features))
    directions = functional.normalize(values - values.mean((0, 1)), dim=-1)
    distances = (1 - directions @ directions.mT).clamp_(0, 2)
    frame = torch.arange(len(weight), device=weight.device)
    nearest = torch.full_like(weight, 2)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    gains, cells = [], []
    for _ in range(most):
        # Each frame takes one token per step. A token that was taken has gain -1.
        gain, cell = (weight * nearest).masked_fill(taken, -1).max(-1)
        gains.append(gain)
        cells.append(cell)
        taken[frame, cell] = True
        nearest = torch.minimum(nearest, distances[frame, cell])
    return torch.stack(gains, 1), torch.stack(cells, 1)
