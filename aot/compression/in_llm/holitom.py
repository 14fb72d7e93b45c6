"""HoliTom's part inside the language model (arXiv 2505.21334): one half merges into the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.compression.ops.similarity import cosine_similarity, working_dtype
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["HoliTomInner", "merge_in_turn"]


@dataclass(frozen=True)
class HoliTomInner(OneDrop):
    """Keep the tokens that the last prompt token attends to most; merge all others into them.

    Before `layer`, round(keep * m) of m tokens are kept, by the attention in layer - 1 (mean over
    heads). Every other token is merged into the most similar kept one (`merge_in_turn`). Newlines
    are among the m, as published.
    """

    card: ClassVar = Card(
        "before layer 18 of 28",
        "arXiv 2505.21334, NeurIPS 2025",
        remark="the tokens that the last token of the prompt attends to most, the others merged into them",
    )

    layer: int = setting(18, "Layer before which tokens are merged.", least=1)
    keep: float = setting(0.5, "Share of the tokens that is kept.", above=0, most=1)

    def reduce(self, state: State) -> Reduction:
        """Merge the least attended tokens into the kept ones, then drop them."""
        # 1. Rank visual tokens and all newlines by the attention of the last prompt token.
        rows = torch.cat([state.visual, state.newline]).sort().values
        lost = least_of(state.from_last()[rows], round(self.keep * len(rows)))
        # 2. Merge the dropped rows into the most similar kept ones.
        is_kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        is_kept[lost] = False
        kept, dropped = rows[is_kept], rows[lost]
        # The state is the caller's, so the change is made in a copy.
        hidden = state.hidden.clone()
        hidden[0, kept] = merge_in_turn(hidden[0, kept], hidden[0, dropped])
        return Reduction(dropped, hidden)


def merge_in_turn(kept: Tensor, dropped: Tensor) -> Tensor:
    """Return the kept tokens [A, D] after each took in its most similar dropped tokens [B, D].

    A kept token is averaged with one dropped token after the other. So of n tokens merged into one,
    the last has weight 1/2, and the first and the kept one have 1/2^n each. Partners are found
    before anything is merged.
    """
    if not len(dropped):
        return kept
    dtype = working_dtype(kept)
    target = cosine_similarity(dropped[None].to(dtype), kept[None].to(dtype))[0].argmax(1)
    # The rank of each dropped token among those with the same target.
    counts = torch.bincount(target, minlength=len(kept))
    order = target.sort(stable=True).indices
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[target[order]]
    # A closed form of the repeated average, without a loop: each later token halves the weight.
    later = (counts[target[order]] - rank).to(dtype)
    moved = kept.to(dtype) * torch.exp2(-counts.to(dtype))[:, None]
    moved.index_add_(0, target[order], dropped[order].to(dtype) * torch.exp2(-later)[:, None])
    return moved.to(kept.dtype)
