"""Provide shared steps of reductions that drop tokens once, before one layer."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from aot.compression.in_llm.base import PUBLISHED_LAYERS, LayerPoint
from aot.config.setting import CheckedSettings
from aot.errors import BudgetError

__all__ = ["OneDrop", "least_of", "refuse_load", "resolve_layer"]

S = TypeVar("S", bound="OneDrop")


@dataclass(frozen=True)
class OneDrop(CheckedSettings):
    """Drop visual tokens once: from `layer` on, only the share `keep` of them is left."""

    layer: int
    keep: float

    def load(self, layers: int) -> float:
        """Return the mean load (K + keep (L - K)) / L, with K = `layer` and L = `layers`."""
        # Layers before the drop process every token, later layers the share `keep`.
        full = resolve_layer(self.layer, layers)
        return (full + self.keep * (layers - full)) / layers

    def with_load(self: S, load: float, layers: int) -> S:
        """Return a copy with the share `keep` that makes the mean load equal to `load`.

        Raises:
            BudgetError: If `load` is at most K / L (K of L layers run before the drop).
        """
        full = resolve_layer(self.layer, layers)
        refuse_load(load, full / layers, f"the first {full} of {layers} layers see every token")
        # The formula of `load`, solved for keep.
        return replace(self, keep=min((load * layers - full) / (layers - full), 1.0))

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return one point, before `layer`."""
        return (LayerPoint(resolve_layer(self.layer, layers)),)


def resolve_layer(layer: int, layers: int) -> int:
    """Return `layer` if the model has that layer, else a layer at the same relative depth.

    The relative depth is `layer` / 28, as published for 28 layers. The result is at least 1.
    """
    if layer < layers:
        return layer
    # At least 1, because a reduction reads the attention of the layer before.
    return max(min(round(layer * layers / PUBLISHED_LAYERS), layers - 1), 1)


def refuse_load(load: float, least: float, why: str) -> None:
    """Check that the mean load `load` is above `least`; `why` is the reason in the message.

    Raises:
        BudgetError: If `load` is at most `least`. The caller puts the name of the reduction before
            the message.
    """
    if load <= least:
        # The lowest ratio with three decimals that is above `least`.
        enough = (math.floor(1000 * least) + 1) / 1000
        raise BudgetError(f"cannot come down to {load:g} of all tokens: {why}; use --ratio {enough:g} or more")


def least_of(scores: Tensor, kept: int) -> Tensor:
    """Return the indices to drop, ascending: all but the `kept` highest of scores [M].

    Of equal scores, the one with the lower index is kept. At least one index is kept.
    """
    # A stable sort ranks ties by index.
    ranked = scores.sort(descending=True, stable=True).indices
    return ranked[max(kept, 1) :].sort().values
