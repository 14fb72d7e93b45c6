"""Baseline: keep the tokens that receive the most attention in the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aot.compression.methods.subset import LOCAL_WINDOWS, keep_subset, pooled_saliency
from aot.config.setting import setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["TopAttention"]


@dataclass(frozen=True)
class TopAttention:
    """Keep the video's tokens that receive the most attention, unchanged and in raster order."""

    card: ClassVar = Card("after pooling", remark="the tokens that receive the most attention in the vision tower")

    layer: int = setting(
        -2, "Block of the vision tower whose attention received is the saliency; negative numbers count from the last."
    )
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    @property
    def needs(self) -> Needs:
        """Return the need for the attention that tokens receive in vision tower block `layer`."""
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; ties in attention go to the lower index."""
        saliency = pooled_saliency(tokens, self.layer, budget if self.local_windows else None)
        ranked = saliency.flatten().sort(descending=True, stable=True).indices
        # Select by saliency, then restore the order of the video.
        return keep_subset(tokens, ranked[:budget].sort().values)
