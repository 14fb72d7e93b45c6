"""FrameFusion (arXiv 2501.01986): tokens that repeat merge, layer by layer, then the least attended go."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.in_llm.base import Place, Reduction, State
from aot.compression.in_llm.one_drop import least_of, refuse_load
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.errors import BudgetError
from aot.plugins import Card

__all__ = ["FrameFusion", "Neighbours", "needed_sparsity"]


@dataclass(frozen=True)
class FrameFusion:
    """Before the first attention and after every one, tokens with a cosine of at least `similarity` to the previous
    token of their cell merge into it, as long as that removes at least the share `fade_out`. Then, once, the tokens
    that the last prompt token attends to least are dropped. `cost` is the mean load of the layers, met by the drop, or
    by merging alone where it reaches it. A newline that ends a line is a token of a cell of its own.

    Merging that would leave nothing for the remaining layers is replaced by the drop; with `paper_exact` it goes on,
    and a budget that is overdrawn is an error.
    """

    card: ClassVar = Card(
        "in every layer, between attention and MLP",
        "arXiv 2501.01986, ICCV 2025",
        remark="tokens like the one before at their place merge, layer by layer, then the least attended go",
    )

    similarity: float = 0.6
    cost: float = 0.3
    fade_out: float = 0.1
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(
            similarity=(-1 <= self.similarity <= 1, f"must be in [-1, 1], got {self.similarity}"),
            cost=(0 < self.cost <= 1, f"must be in (0, 1], got {self.cost}"),
            fade_out=(0 <= self.fade_out <= 1, f"must be in [0, 1], got {self.fade_out}"),
        )

    def load(self, layers: int) -> float:
        return self.cost

    def with_load(self, load: float, layers: int) -> FrameFusion:
        refuse_load(load, 0, "nothing would be left")
        return replace(self, cost=load)

    def places(self, layers: int) -> Collection[Place]:
        return {Place(0), *(Place(layer, after_attention=True) for layer in range(layers - 1))}

    def reduce(self, state: State) -> Reduction:
        """
        Raises:
            BudgetError: with `paper_exact`, merging has overdrawn the budget.
        """
        merged_so_far = state.notes
        sparsity = needed_sparsity(self.cost, state.layers, merged_so_far)
        if merged_so_far and merged_so_far[-1] < self.fade_out:
            return self._prune(state, sparsity)
        neighbours = Neighbours.build(state)
        count = len(neighbours.order)
        similar = int((neighbours.similarity >= self.similarity).sum())
        fraction = similar / count
        if fraction >= sparsity:
            return replace(neighbours.merge(state, math.floor(sparsity * count)), done=True)
        if not self.paper_exact and _overdraws(self.cost, state.layers, (*merged_so_far, fraction)):
            return self._prune(state, sparsity)
        return replace(neighbours.merge(state, similar), notes=(*merged_so_far, fraction))

    def _prune(self, state: State, sparsity: float) -> Reduction:
        rows = state.patches
        scores = state.from_last(upcoming=not state.notes)[rows]
        return Reduction(rows[least_of(scores, round(len(rows) * (1 - sparsity)))], done=True)


def needed_sparsity(cost: float, layers: int, merged: tuple[float, ...]) -> float:
    """The share z of the tokens now left that must go for the mean over all layers to become `cost`.

    merged: the fraction that each layer so far has removed.

    Raises:
        BudgetError: the layers so far have used up more than `cost` allows all.
    """
    spent, share = _spent(merged)
    left = layers * cost - spent
    if left < 0:
        raise BudgetError(
            f"--inner framefusion has merged too slowly to come down to {cost:g} of all tokens; use a higher --ratio, "
            "or leave inner.settings.framefusion.paper_exact out"
        )
    return 1 - min(1.0, left / ((layers - len(merged)) * share))


def _overdraws(cost: float, layers: int, merged: tuple[float, ...]) -> bool:
    return layers * cost - _spent(merged)[0] <= 0


def _spent(merged: tuple[float, ...]) -> tuple[float, float]:
    """The load of the layers so far, in whole layers, and the share of tokens that is left."""
    spent, share = 0.0, 1.0
    for fraction in merged:
        share *= 1 - fraction
        spent += share
    return spent, share


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Patches (`State.patches`) type by type, each type's in the order they are read. order: [R]; similarity: [R] of
    each to the one before it of its type, below -1 for the first.
    """

    order: Tensor
    similarity: Tensor

    @classmethod
    def build(cls, state: State) -> Neighbours:
        cell = state.patch_type
        order = cell.sort(stable=True).indices
        states = state.hidden[0, state.patches[order]]
        unit = functional.normalize(states.to(working_dtype(states)), dim=-1, eps=1e-12)
        similarity = torch.full((len(order),), -2.0, dtype=unit.dtype, device=unit.device)
        follows = cell[order][1:] == cell[order][:-1]
        similarity[1:] = torch.where(follows, (unit[1:] * unit[:-1]).sum(-1), -2.0)
        return cls(order, similarity)

    def merge(self, state: State, count: int) -> Reduction:
        """Merge the `count` most similar tokens into those before them; a run of them becomes the mean of the run."""
        is_merged = torch.zeros(len(self.order), dtype=torch.bool, device=self.order.device)
        # Ties by where the tokens stand in the prompt, not by cell.
        similarity = torch.empty_like(self.similarity)
        similarity[self.order] = self.similarity
        is_merged[similarity.sort(descending=True, stable=True).indices[:count]] = True
        in_cells = is_merged[self.order]
        run, rows = (~in_cells).cumsum(0) - 1, state.patches
        states = state.hidden[0, rows[self.order]]
        sums = states.new_zeros(len(run) - count, states.shape[1], dtype=working_dtype(states))
        sums.index_add_(0, run, states.to(sums.dtype))
        hidden = state.hidden.clone()
        heads = rows[self.order[~in_cells]]
        hidden[0, heads] = (sums / torch.bincount(run)[:, None]).to(hidden.dtype)
        return Reduction(rows[is_merged], hidden)
