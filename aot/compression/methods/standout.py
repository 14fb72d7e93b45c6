"""Standout: the tokens that differ from the mean of the video, without repeats within a frame.

This project's own method. It reads no attention, so it works with any encoder and costs the encoder
nothing; docs/methods.md describes how it was found and how accurate it is.
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
    """Keep the tokens with the greatest gains of the whole video, unchanged and in raster order.

    The gain of a token is its distinctiveness (1 - cosine similarity to the mean of the video) to
    the power of `emphasis`, times its distance to the tokens of its frame that were taken before.
    So unusual frames keep more tokens, and a second token of one object comes after the first token
    of every other object.
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
            BudgetError: If nothing would be kept.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = pooled.shape
        budget = min(budget, frames * per_frame)
        # 1. How much every token differs from the mean of the video.
        weight = distinctiveness(pooled) ** self.emphasis
        # 2. The gains of each frame's tokens, in the order in which they are taken.
        gains, cells = spread_gains(pooled, weight, min(budget, per_frame))
        # 3. The greatest gains of the video. Gains never increase within a frame, so these are the
        # first gains of every frame.
        greatest = gains.flatten().sort(descending=True, stable=True).indices[:budget]
        index = (greatest // gains.shape[1] * per_frame + cells.flatten()[greatest]).sort().values
        return kept_tokens(tokens, pooled.reshape(-1, width)[index], index)


def distinctiveness(features: Tensor) -> Tensor:
    """Return 1 - cosine similarity to the mean of all tokens: [F, n] in [0, 2].

    features: [F, n, D]. A zero vector has distinctiveness 0.
    """
    values = features.to(working_dtype(features))
    # A zero vector has no direction, so nothing sets it apart.
    directions, mean = functional.normalize(values, dim=-1), functional.normalize(values.mean((0, 1)), dim=0)
    return (1 - directions @ mean).clamp_(0, 2) * (directions != 0).any(-1)


def spread_gains(features: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return gains and cells [F, most] of each frame's tokens, in the order of greedy selection.

    The gain of a token is its weight times its distance to the nearest token of its frame that was
    taken before. Each step takes the token with the greatest gain, so gains never increase; ties go
    to the lower index (weighted farthest-point sampling). Distances are 1 - cosine similarity of
    features minus the mean of all tokens; the first token of a frame has the greatest one, 2.

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
        # All frames take one token per step. A taken token has gain -1.
        gain, cell = (weight * nearest).masked_fill(taken, -1).max(-1)
        gains.append(gain)
        cells.append(cell)
        taken[frame, cell] = True
        nearest = torch.minimum(nearest, distances[frame, cell])
    return torch.stack(gains, 1), torch.stack(cells, 1)
