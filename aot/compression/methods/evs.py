"""EVS, efficient video sampling: the tokens that changed most since the frame before (arXiv 2510.14624)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens, pooled_cells
from aot.compression.ops.grid import pool
from aot.compression.ops.similarity import working_dtype
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["EfficientVideoSampling", "change_since_last_frame"]

_FIRST_FRAME = 255.0  # above every dissimilarity


@dataclass(frozen=True)
class EfficientVideoSampling:
    """The whole first frame, then the tokens least similar to the one at their place in the frame before.

    paper_exact: the count is int(N (1 - q)) of N tokens with q = 1 - ratio, in floating point, and one below a frame is
    raised to it rather than refused.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2510.14624",
        remark="the first frame whole, then the tokens that changed most since the frame before",
        least="one whole frame of all",
    )
    needs: ClassVar = Needs()

    paper_exact: bool = False

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order, unchanged.

        Raises:
            BudgetError: the budget is below one whole frame.
        """
        frames, per_frame = pooled_cells(tokens)
        if self.paper_exact:
            total = frames * per_frame
            pruned_share = 1 - TokenBudget.ratio_of(budget, total)
            budget = max(int(total * (1 - pruned_share)), per_frame)
        check_budget(tokens, budget, least=per_frame, why=" for the whole first frame that evs keeps")
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        ranked = change_since_last_frame(pooled).flatten().sort(descending=True, stable=True).indices
        index = ranked[:budget].sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=[Clip(0, frames)])


def change_since_last_frame(pooled: Tensor) -> Tensor:
    """1 - cosine of every token with the one at its place in the frame before: [F, n] in [0, 2]; 255 in frame 0.

    pooled: [F, n, D].
    """
    unit = functional.normalize(pooled.to(working_dtype(pooled)), dim=-1)
    change = 1 - (unit[1:] * unit[:-1]).sum(-1)
    return torch.cat([change.new_full((1, pooled.shape[1]), _FIRST_FRAME), change])
