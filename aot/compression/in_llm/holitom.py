"""HoliTom inside the language model (arXiv 2505.21334): less attended tokens are merged once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.compression.ops.group_means import group_sizes
from aot.compression.ops.padding import true_indices
from aot.compression.ops.similarity import cosine_similarity, working_dtype
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["HoliTomInner", "merge_in_turn"]


@dataclass(frozen=True)
class HoliTomInner(OneDrop):
    """Keep the tokens that the last prompt token attends to most; merge all others into them.

    Before `layer`, round(keep * m) of m tokens are kept, ranked by this attention in the preceding
    layer (mean over heads). Every other token is merged into the most similar kept token
    (`merge_in_turn`). Newlines count among the m tokens, as published.
    """

    card: ClassVar = Card(
        "before layer 18 of 28",
        "arXiv 2505.21334, NeurIPS 2025",
        remark="the tokens that the last token of the prompt attends to most, the others merged into them",
    )

    layer: int = setting(18, "Layer before which tokens are merged.", least=1)
    keep: float = setting(0.5, "Share of the tokens that is kept.", above=0, most=1)

    def reduce(self, state: State) -> Reduction:
        """Merge the least attended tokens into the kept tokens, then drop the merged rows."""
        # 1. Rank visual tokens and all newlines by the attention of the last prompt token.
        rows = torch.cat([state.visual, state.newline]).sort().values
        lost = least_of(state.from_last()[rows], round(self.keep * len(rows)))
        # 2. Merge each dropped row into the most similar kept row.
        is_kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        is_kept.index_fill_(0, lost, False)
        kept, dropped = rows[true_indices(is_kept, len(rows) - len(lost))], rows[lost]
        # Change a copy: the caller owns `state`.
        hidden = state.hidden.clone()
        hidden[0, kept] = merge_in_turn(hidden[0, kept], hidden[0, dropped])
        return Reduction(dropped, hidden)


def merge_in_turn(kept: Tensor, dropped: Tensor) -> Tensor:
    """Return the tokens `kept` [A, D] after merging the tokens `dropped` [B, D] into them.

    Each dropped token is merged into the most similar kept token; similarities are computed before
    any merge. A kept token is averaged with its n dropped tokens one after the other. Then the last
    dropped token has weight 1/2; the first dropped token and the kept token have 1/2^n each.
    """
    if not len(dropped):
        return kept
    dtype = working_dtype(kept)
    target = cosine_similarity(dropped[None].to(dtype), kept[None].to(dtype))[0].argmax(1)
    # Rank each dropped token among the dropped tokens with the same target.
    counts = group_sizes(target, len(kept))
    order = target.sort(stable=True).indices
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[target[order]]
    # Closed form of the repeated average: each average halves the weights of earlier tokens, and
    # token `rank` of `counts` takes part in counts - rank averages.
    later = (counts[target[order]] - rank).to(dtype)
    moved = kept.to(dtype) * torch.exp2(-counts.to(dtype))[:, None]
    moved.index_add_(0, target[order], dropped[order].to(dtype) * torch.exp2(-later)[:, None])
    return moved.to(kept.dtype)
