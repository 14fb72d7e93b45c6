"""HoliTom's second half (arXiv 2505.21334): half of the tokens are merged into the other half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.compression.ops.similarity import cosine_similarity, working_dtype
from aot.plugins import Card

__all__ = ["HoliTomInner", "merge_in_turn"]


@dataclass(frozen=True)
class HoliTomInner(OneDrop):
    """The round(keep * m) of m tokens that the last prompt token attends to most in layer - 1 go on; every other is
    merged into the most similar of them (`merge_in_turn`). Newlines count among the m, as published.
    """

    card: ClassVar = Card(
        "before layer 18 of 28",
        "arXiv 2505.21334, NeurIPS 2025",
        remark="the tokens that the last token of the prompt attends to most, the others merged into them",
    )

    layer: int = 18
    keep: float = 0.5

    def reduce(self, state: State) -> Reduction:
        rows = torch.cat([state.visual, state.newline]).sort().values
        lost = least_of(state.from_last()[rows], round(self.keep * len(rows)))
        is_kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        is_kept[lost] = False
        kept, dropped = rows[is_kept], rows[lost]
        hidden = state.hidden.clone()
        hidden[0, kept] = merge_in_turn(hidden[0, kept], hidden[0, dropped])
        return Reduction(dropped, hidden)


def merge_in_turn(kept: Tensor, dropped: Tensor) -> Tensor:
    """Halve the way of a kept token [A, D] to each dropped one [B, D] that is most similar to it, one after the other.

    So of n tokens merged into one, the last weighs 1/2, the first and the kept one 1/2^n each. Partners are found
    before anything moves.
    """
    if not len(dropped):
        return kept
    dtype = working_dtype(kept)
    target = cosine_similarity(dropped[None].to(dtype), kept[None].to(dtype))[0].argmax(1)
    counts = torch.bincount(target, minlength=len(kept))
    order = target.sort(stable=True).indices
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[target[order]]
    later = (counts[target[order]] - place).to(dtype)
    moved = kept.to(dtype) * torch.exp2(-counts.to(dtype))[:, None]
    moved.index_add_(0, target[order], dropped[order].to(dtype) * torch.exp2(-later)[:, None])
    return moved.to(kept.dtype)
