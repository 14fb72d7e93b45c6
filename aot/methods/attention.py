"""Baseline: the tokens that the vision tower looks at most."""

from __future__ import annotations

from aot.methods.subset import keep_subset, pooled_saliency
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["TopAttention"]


class TopAttention:
    """The most salient tokens of the whole video, by the attention received in one block of the tower."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    @property
    def needs(self) -> Needs:
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; of equal ones the earlier."""
        ranked = pooled_saliency(tokens, self.layer).flatten().sort(descending=True, stable=True).indices
        return keep_subset(tokens, ranked[:budget].sort().values)
