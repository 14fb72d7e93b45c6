"""EVS, efficient video sampling (arXiv 2510.14624): keep tokens that change between frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens, pooled_cells
from aot.compression.ops.grid import pool
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["EfficientVideoSampling", "change_since_last_frame"]

_FIRST_FRAME = 255.0  # above every change, which is at most 2


@dataclass(frozen=True)
class EfficientVideoSampling:
    """Keep the whole first frame, then the tokens that changed most since the previous frame.

    The change of a token is 1 - cosine similarity to the same cell of the previous frame.

    With `paper_exact`, int(N (1 - q)) of all N tokens are kept, with q = 1 - ratio in floating
    point. If this is less than the tokens of one frame, one whole frame is kept, without an error.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2510.14624",
        remark="the whole first frame, then the tokens that changed most since the previous frame",
        least="one whole frame of the video",
    )
    needs: ClassVar = Needs()

    paper_exact: bool = setting(False, "Round the count as published.")

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order.

        Raises:
            BudgetError: If `budget` is below the number of tokens of one frame.
        """
        frames, per_frame = pooled_cells(tokens)
        if self.paper_exact:
            # The published count, in floating point.
            total = frames * per_frame
            # Through q, as published: 1 - (1 - ratio) may round below the ratio.
            pruned_share = 1 - TokenBudget.ratio_of(budget, total)
            budget = max(int(total * (1 - pruned_share)), per_frame)
        check_budget(tokens, budget, least=per_frame, why=" for the whole first frame that evs keeps")
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        # With a stable sort, ties go to the lower index.
        ranked = change_since_last_frame(pooled).flatten().sort(descending=True, stable=True).indices
        index = ranked[:budget].sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=[Clip(0, frames)])


def change_since_last_frame(pooled: Tensor) -> Tensor:
    """Return 1 - cosine similarity to the same cell of the previous frame: [F, n] in [0, 2].

    Frame 0 has the value 255, as published. `pooled` is [F, n, D].
    """
    unit = functional.normalize(pooled.to(working_dtype(pooled)), dim=-1)
    change = 1 - (unit[1:] * unit[:-1]).sum(-1)
    # The first frame has no previous frame; its value ranks it first.
    return torch.cat([change.new_full((1, pooled.shape[1]), _FIRST_FRAME), change])
