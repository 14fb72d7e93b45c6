"""Define a reduction inside the language model that acts everywhere and drops nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm import LayerPoint, Reduction, State
from aot.plugins import Card


@dataclass(frozen=True)
class KeepAll:
    """Keep all visual tokens."""

    card: ClassVar = Card("everywhere")

    def load(self, layers: int) -> float:
        """Return the full load."""
        return 1.0

    def with_load(self, load: float, layers: int) -> KeepAll:
        """Return the same reduction."""
        return self

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return both points of every layer."""
        return {LayerPoint(layer, after) for layer in range(layers) for after in (False, True)}

    def reduce(self, state: State) -> Reduction:
        """Drop nothing."""
        return Reduction(state.visual[:0])
