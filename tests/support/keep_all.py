"""A reduction inside the language model that is asked everywhere and drops nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_llm import Place, Reduction, State
from aot.plugins import Card


@dataclass(frozen=True)
class KeepAll:
    card: ClassVar = Card("everywhere")

    def load(self, layers: int) -> float:
        return 1.0

    def with_load(self, load: float, layers: int) -> KeepAll:
        return self

    def places(self, layers: int) -> Collection[Place]:
        return {Place(layer, after) for layer in range(layers) for after in (False, True)}

    def reduce(self, state: State) -> Reduction:
        return Reduction(state.visual[:0])
