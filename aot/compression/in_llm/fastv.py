"""FastV (arXiv 2403.06764): one drop after two layers, by the last prompt token's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop, least_of
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["FastV"]


@dataclass(frozen=True)
class FastV(OneDrop):
    """Keep the visual tokens that the last prompt token attends to most, from an early layer on.

    Before `layer`, round(keep * m) of m visual tokens are kept, ranked by this attention in the
    preceding layer (mean over heads). The kept tokens keep their position ids.
    """

    card: ClassVar = Card(
        "before layer 2 of 28",
        "arXiv 2403.06764, ECCV 2024",
        remark="the tokens that the last token of the prompt attends to most",
    )

    layer: int = setting(2, "Layer before which tokens are dropped; the paper's K.", least=1)
    keep: float = setting(0.5, "Share of the tokens that is kept; the paper's 1 - R.", above=0, most=1)

    def reduce(self, state: State) -> Reduction:
        """Drop the visual tokens that receive the least attention from the last prompt token."""
        # Only later layers lose the dropped rows; the KV caches of earlier layers stay complete.
        scores = state.from_last()[state.visual]
        return Reduction(state.visual[least_of(scores, round(self.keep * len(scores)))])
