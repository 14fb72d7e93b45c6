"""What reductions have in common that drop once, before one layer."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from aot.compression.in_llm.base import PUBLISHED_LAYERS, Place
from aot.config.strict import check
from aot.errors import BudgetError

__all__ = ["OneDrop", "least_of", "refuse_load", "resolve_layer"]

S = TypeVar("S", bound="OneDrop")


def resolve_layer(layer: int, layers: int) -> int:
    """A layer the model does not have becomes the one at its relative depth, at least the second."""
    if layer < layers:
        return layer
    return max(min(round(layer * layers / PUBLISHED_LAYERS), layers - 1), 1)


def least_of(scores: Tensor, kept: int) -> Tensor:
    """Indices of all but the `kept` highest scores [M], ascending; of equal ones the earlier is kept."""
    ranked = scores.sort(descending=True, stable=True).indices
    return ranked[max(kept, 1) :].sort().values


def refuse_load(load: float, least: float, why: str) -> None:
    """
    Raises:
        BudgetError: a mean load of `load` is asked for, which is not above `least`; whoever knows the reduction's name
            puts it in front.
    """
    if load <= least:
        enough = (math.floor(1000 * least) + 1) / 1000
        raise BudgetError(f"cannot come down to {load:g} of all tokens: {why}; use --ratio {enough:g} or more")


@dataclass(frozen=True)
class OneDrop:
    """Before `layer` runs, the share `keep` of the visual tokens is kept."""

    layer: int
    keep: float

    def __post_init__(self) -> None:
        check(
            layer=(self.layer >= 1, f"must be at least 1, got {self.layer}"),
            keep=(0 < self.keep <= 1, f"must be in (0, 1], got {self.keep}"),
        )

    def load(self, layers: int) -> float:
        """(K + keep (L - K)) / L."""
        full = resolve_layer(self.layer, layers)
        return (full + self.keep * (layers - full)) / layers

    def with_load(self: S, load: float, layers: int) -> S:
        """
        Raises:
            BudgetError: the layers before already make more than `load`.
        """
        full = resolve_layer(self.layer, layers)
        refuse_load(load, full / layers, f"the first {full} of {layers} layers see every token")
        return replace(self, keep=min((load * layers - full) / (layers - full), 1.0))

    def places(self, layers: int) -> Collection[Place]:
        return (Place(resolve_layer(self.layer, layers)),)
