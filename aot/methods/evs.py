"""EVS, efficient video sampling: the tokens that changed most since the frame before (arXiv 2510.14624)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.core.cost import working_dtype
from aot.core.grid import pool
from aot.methods.base import MethodCard
from aot.methods.subset import check_budget, keep_subset, pooled_cells
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["EfficientVideoSampling", "change_since_last_frame"]

_FIRST_FRAME = 255.0  # above every dissimilarity


@dataclass(frozen=True)
class EfficientVideoSampling:
    """The whole first frame, then the tokens least similar to the one at their place in the frame before.

    paper_exact: a budget below one frame is raised to it, rather than refused.
    """

    card: ClassVar = MethodCard("after pooling", "arXiv 2510.14624", remark="what changed; needs one whole frame")
    needs: ClassVar = Needs()

    paper_exact: bool = False

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order, unchanged.

        Raises:
            BudgetError: the budget is below one whole frame.
        """
        frames, per_frame = pooled_cells(tokens)
        if self.paper_exact:
            budget = max(budget, per_frame)
        check_budget(tokens, budget, least=per_frame, why=" for the whole first frame that evs keeps")
        change = change_since_last_frame(pool(tokens.features, tokens.grid, tokens.pool))
        ranked = change.flatten().sort(descending=True, stable=True).indices
        return keep_subset(tokens, ranked[:budget].sort().values, clips=[Clip(0, frames)])


def change_since_last_frame(pooled: Tensor) -> Tensor:
    """1 - cosine of every token with the one at its place in the frame before: [F, n] in [0, 2]; 255 in frame 0.

    pooled: [F, n, D].
    """
    values = pooled.to(working_dtype(pooled))
    change = 1 - functional.cosine_similarity(values[1:], values[:-1], dim=-1)
    return torch.cat([change.new_full((1, values.shape[1]), _FIRST_FRAME), change])
