"""FlashVID's part inside the language model (arXiv 2602.08024): one drop in a late layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["FlashVidInner"]

_ROUNDING = 1e-9  # in floating point 0.3 * 10 is above 3


@dataclass(frozen=True)
class FlashVidInner(OneDrop):
    """Keep the visual tokens that the last prompt token attends to most, from a late layer on.

    Before `layer`, ceil(keep * m) of m visual tokens are kept, by the attention in layer - 1 (mean
    over heads). Newlines that end a line are among the m, as published. A larger share of tokens
    enters the language model in return.
    """

    card: ClassVar = Card(
        "before layer 20 of 28",
        "arXiv 2602.08024, ICLR 2026",
        remark="the tokens that the last token of the prompt attends to most, late in the model",
    )

    layer: int = setting(20, "Layer before which tokens are dropped.", least=1)
    keep: float = setting(0.3, "Share of the tokens that is kept.", above=0, most=1)

    def reduce(self, state: State) -> Reduction:
        """Drop the visual tokens and newlines with the least attention."""
        # Newlines that end a line are tokens like others here.
        rows = state.patches
        return Reduction(rows[least_of(state.from_last()[rows], math.ceil(self.keep * len(rows) - _ROUNDING))])
