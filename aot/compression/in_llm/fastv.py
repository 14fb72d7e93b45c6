"""FastV (arXiv 2403.06764): after two layers, what the last prompt token does not look at is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.plugins import Card

__all__ = ["FastV"]


@dataclass(frozen=True)
class FastV(OneDrop):
    """The round(keep * m) of m visual tokens that the last prompt token attends to most in layer - 1 (mean over
    heads) go on, at their positions. `layer` is the paper's K, keep its 1 - R.
    """

    card: ClassVar = Card(
        "before layer 2 of 28",
        "arXiv 2403.06764, ECCV 2024",
        remark="the tokens that the last token of the prompt attends to most",
    )

    layer: int = 2
    keep: float = 0.5

    def reduce(self, state: State) -> Reduction:
        scores = state.from_last()[state.visual]
        return Reduction(state.visual[least_of(scores, round(self.keep * len(scores)))])
