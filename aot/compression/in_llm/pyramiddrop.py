"""PyramidDrop (arXiv 2410.17247): the deeper the layer, the fewer tokens, in a few steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

from aot.compression.in_llm.base import Place, Reduction, State
from aot.compression.in_llm.one_drop import least_of, refuse_load
from aot.config.strict import check
from aot.plugins import Card

__all__ = ["PyramidDrop"]

_EARLY = 2  # where the first drop comes when the ratio asks for more than the published layers give
_STEPS = 60


@dataclass(frozen=True)
class PyramidDrop:
    """The layers fall into `parts` equal ones; with every new part only the share `keep` of the visual tokens of the
    part before goes on, those that the last prompt token attends to most in the layer about to run. The rest is
    numbered anew. first_layer: where the second part begins, if not at its equal share.

    The published model is also trained this way; this is its inference alone. For a given average, `keep` is solved
    from (1 + a + a^2 + a^3) / 4; where that has no solution, the first drop comes before layer 2.
    """

    card: ClassVar = Card(
        "before layers 7, 14 and 21 of 28",
        "arXiv 2410.17247, CVPR 2025",
        remark="ever fewer tokens, in steps: those that the last token of the prompt attends to most",
    )

    parts: int = 4
    keep: float = 0.5
    first_layer: int | None = None

    def __post_init__(self) -> None:
        check(
            parts=(self.parts >= 2, f"must be at least 2, got {self.parts}"),
            keep=(0 < self.keep <= 1, f"must be in (0, 1], got {self.keep}"),
            first_layer=(self.first_layer is None or self.first_layer >= 1, "must be at least 1"),
        )

    def _begins(self, layers: int) -> list[int]:
        """The first layer of every part but the first."""
        equal = [max(round(layers * part / self.parts), 1) for part in range(1, self.parts)]
        if self.first_layer is not None:
            equal[0] = min(self.first_layer, equal[0])
        return equal

    def _share(self, layer: int, layers: int) -> float:
        return self.keep ** sum(begin <= layer for begin in self._begins(layers))

    def load(self, layers: int) -> float:
        return sum(self._share(layer, layers) for layer in range(layers)) / layers

    def with_load(self, load: float, layers: int) -> PyramidDrop:
        """
        Raises:
            BudgetError: the layers before the first drop already make more than `load`.
        """
        found = self if load > self._begins(layers)[0] / layers else replace(self, first_layer=_EARLY)
        full = found._begins(layers)[0]
        refuse_load(load, full / layers, f"the first {full} of {layers} layers see every token")
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if replace(found, keep=middle).load(layers) > load else (middle, high)
        return replace(found, keep=high)

    def places(self, layers: int) -> Collection[Place]:
        return {Place(begin) for begin in self._begins(layers)}

    def reduce(self, state: State) -> Reduction:
        all_tokens = len(state.tokens.features)
        kept = int(self._share(state.layer, state.layers) * all_tokens)
        scores = state.from_last(upcoming=True)[state.visual]
        return Reduction(state.visual[least_of(scores, kept)], packed=True)
