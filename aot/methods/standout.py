"""Standout: what differs from the video as a whole, each thing in each frame once before anything twice.

Ours. No attention is read, so it works on any encoder and costs it nothing; docs/methods.md says how it was found and
what it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.core.grid import pool
from aot.core.standout import distinctiveness, spread_gains
from aot.methods.subset import check_budget, kept_tokens
from aot.registry import Card
from aot.strict import check
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
