"""Standout: what differs from the video as a whole, each thing in each frame once before anything twice.

Ours. No attention is read, so it works on any encoder and costs it nothing; docs/methods.md says how it was found and
what it is worth.
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
from aot.config.strict import check
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["Standout"]


@dataclass(frozen=True)
class Standout:
    """The tokens with the greatest gains of the whole video, unchanged, in its order.

    A token's gain is its distinctiveness (1 - cosine with the mean of the video) to the power of `emphasis`, times its
    distance to the tokens of its frame that were taken before it. So a frame in which little stands out gives way to
    one in which much does, and two tokens of one thing only come after one of each.
    """

    card: ClassVar = Card(
        "after pooling",
        "this project",
        remark="the tokens least like the video's mean, spread over the things of each frame",
    )
    needs: ClassVar = Needs()

    emphasis: float = 2.0

    def __post_init__(self) -> None:
        check(emphasis=(0 <= self.emphasis <= 8, f"must be in [0, 8], got {self.emphasis}"))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: nothing would be kept.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = pooled.shape
        budget = min(budget, frames * per_frame)
        weight = distinctiveness(pooled) ** self.emphasis
        gains, cells = spread_gains(pooled, weight, min(budget, per_frame))
        # Gains never increase within a frame, so the greatest of all are the first so many of each.
        greatest = gains.flatten().sort(descending=True, stable=True).indices[:budget]
        index = (greatest // gains.shape[1] * per_frame + cells.flatten()[greatest]).sort().values
        return kept_tokens(tokens, pooled.reshape(-1, width)[index], index)


# Tokens that stand out of their video, spread over what stands out in each frame.

__all__ = ["distinctiveness", "spread_gains"]


def distinctiveness(features: Tensor) -> Tensor:
    """1 - cosine with the mean of all tokens, for features [F, n, D]: [F, n] in [0, 2], 0 for zero vectors."""
    values = features.to(working_dtype(features))
    directions, mean = functional.normalize(values, dim=-1), functional.normalize(values.mean((0, 1)), dim=0)
    return (1 - directions @ mean).clamp_(0, 2) * (directions != 0).any(-1)


def spread_gains(features: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """What each frame's tokens add, taken one after the other: gains [F, most], never increasing, and cells [F, most].

    The gain of a token is its weight [F, n] times its distance to the nearest one taken before it in its frame: 1 -
    cosine, of features [F, n, D] less the mean of all tokens; 2, the greatest distance, for the first. Each time the
    token with the greatest gain is taken, of equal ones the lower index (farthest-point sampling, weighted).
    """
    values = features.to(working_dtype(features))
    directions = functional.normalize(values - values.mean((0, 1)), dim=-1)
    distances = (1 - directions @ directions.mT).clamp_(0, 2)
    frame = torch.arange(len(weight), device=weight.device)
    nearest = torch.full_like(weight, 2)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    gains, cells = [], []
    for _ in range(most):
        gain, cell = (weight * nearest).masked_fill(taken, -1).max(-1)
        gains.append(gain)
        cells.append(cell)
        taken[frame, cell] = True
        nearest = torch.minimum(nearest, distances[frame, cell])
    return torch.stack(gains, 1), torch.stack(cells, 1)
