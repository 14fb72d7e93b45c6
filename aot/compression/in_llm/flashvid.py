"""FlashVID's second half (arXiv 2602.08024): one drop deep in the language model, with a larger share before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.plugins import Card

__all__ = ["FlashVidInner"]

_ROUNDING = 1e-9  # 0.3 * 10 is above 3


@dataclass(frozen=True)
class FlashVidInner(OneDrop):
    """The ceil(keep * m) of m visual tokens that the last prompt token attends to most in layer - 1 go on.

    Newlines that end a line are among the m.
    """

    card: ClassVar = Card(
        "before layer 20 of 28",
        "arXiv 2602.08024, ICLR 2026",
        remark="the tokens that the last token of the prompt attends to most, late in the model",
    )

    layer: int = 20
    keep: float = 0.3

    def reduce(self, state: State) -> Reduction:
        rows = state.patches
        return Reduction(rows[least_of(state.from_last()[rows], math.ceil(self.keep * len(rows) - _ROUNDING))])
