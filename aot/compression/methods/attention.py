"""Baseline: the tokens that the vision tower looks at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.methods.subset import keep_subset, pooled_saliency
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["TopAttention"]


@dataclass(frozen=True)
class TopAttention:
    """The most salient tokens of the whole video, by the attention received in block `layer` of the tower."""

    card: ClassVar = Card("after pooling", remark="the tokens that the vision tower looks at most")

    layer: int = -2

    @property
    def needs(self) -> Needs:
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; of equal ones the earlier."""
        ranked = pooled_saliency(tokens, self.layer).flatten().sort(descending=True, stable=True).indices
        return keep_subset(tokens, ranked[:budget].sort().values)
