"""PyramidDrop (arXiv 2410.17247): fewer tokens in deeper layers, in a few steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

from aot.compression.in_llm.base import LayerPoint, Reduction, State
from aot.compression.in_llm.one_drop import least_of, refuse_load
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card

__all__ = ["PyramidDrop"]

_EARLY = 2  # layer of the first drop, for ratios that the published layers cannot reach
_STEPS = 60  # steps of bisection


@dataclass(frozen=True)
class PyramidDrop(CheckedSettings):
    """Keep fewer visual tokens in deeper layers: those that the last prompt token attends to most.

    The layers form `parts` equal parts. Before each part except the first, the share `keep` of the
    tokens of the previous part is kept, ranked by the attention in the part's first layer. The kept
    rows get new position ids without gaps.

    If a mean load is required, `keep` becomes the solution a of (1 + a + a^2 + a^3) / 4 = load (for
    four parts). If this has no solution, the first drop moves to layer 2. The published model is
    also trained with these drops; here they are used at inference only.
    """

    card: ClassVar = Card(
        "before layers 7, 14 and 21 of 28",
        "arXiv 2410.17247, CVPR 2025",
        remark="fewer tokens with every step: those that the last token of the prompt attends to most",
    )

    parts: int = setting(4, "The number of parts.", least=2)
    keep: float = setting(0.5, "The share that is kept at every step.", above=0, most=1)
    first_layer: int | None = setting(None, "The first layer of the second part; null is its equal share.", least=1)

    def _begins(self, layers: int) -> list[int]:
        """Return the first layer of every part except the first part."""
        # Layers 7, 14 and 21 of 28.
        equal = [max(round(layers * part / self.parts), 1) for part in range(1, self.parts)]
        if self.first_layer is not None:
            equal[0] = min(self.first_layer, equal[0])
        return equal

    def _share(self, layer: int, layers: int) -> float:
        """Return the share of all visual tokens that `layer` processes."""
        return self.keep ** sum(begin <= layer for begin in self._begins(layers))

    def load(self, layers: int) -> float:
        """Return the share of visual tokens that a layer processes, averaged over all `layers`."""
        return sum(self._share(layer, layers) for layer in range(layers)) / layers

    def with_load(self, load: float, layers: int) -> PyramidDrop:
        """Return a copy with the share `keep` that makes the mean load equal to `load`.

        Raises:
            BudgetError: If `load` is at most K / L (K of L layers run before the first drop).
        """
        # If the published layers cannot reach this load, drop earlier.
        found = self if load > self._begins(layers)[0] / layers else replace(self, first_layer=_EARLY)
        full = found._begins(layers)[0]
        refuse_load(load, full / layers, f"the first {full} of {layers} layers see every token")
        # Bisection: the load grows with keep.
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if replace(found, keep=middle).load(layers) > load else (middle, high)
        return replace(found, keep=high)

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return the points before the first layer of every part except the first part."""
        return {LayerPoint(begin) for begin in self._begins(layers)}

    def reduce(self, state: State) -> Reduction:
        """Drop the least attended visual tokens, down to the share of this layer."""
        all_tokens = len(state.tokens.features)
        # A share of all tokens and not of the remaining tokens, so that rounding does not add up.
        kept = int(self._share(state.layer, state.layers) * all_tokens)
        # Rank by the attention of the next layer.
        scores = state.from_last(upcoming=True)[state.visual]
        return Reduction(state.visual[least_of(scores, kept)], packed=True)
