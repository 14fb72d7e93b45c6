"""FrameFusion (arXiv 2501.01986): merging over time in the first layers, then one drop."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.in_llm.base import LayerPoint, Reduction, State
from aot.compression.in_llm.one_drop import least_of, refuse_load
from aot.compression.ops.group_means import group_means
from aot.compression.ops.padding import true_indices
from aot.compression.ops.similarity import working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.errors import BudgetError
from aot.plugins import Card

__all__ = ["FrameFusion", "Neighbors", "needed_sparsity"]


@dataclass(frozen=True)
class FrameFusion(CheckedSettings):
    """Merge similar tokens of each cell layer by layer, then drop the least attended tokens once.

    Before the first layer and after every attention, a token is merged into the previous token of
    its cell if their cosine similarity is at least `similarity`. Merging ends when a step removes
    less than the share `fade_out` of the tokens. In the next layer, tokens that receive the least
    attention from the last prompt token are dropped, so many that the mean load of all layers is
    `cost`. If merging alone can reach `cost`, nothing is dropped. Newlines that end the same line
    of the grid count as tokens of one more cell.

    If a merge would leave no load for the remaining layers, tokens are dropped instead.
    """

    card: ClassVar = Card(
        "in every layer, between attention and MLP",
        "arXiv 2501.01986, ICCV 2025",
        remark="similar tokens of a cell are merged over time, layer by layer, then the least attended dropped",
    )

    similarity: float = setting(0.6, "Least cosine similarity of tokens that are merged.", least=-1, most=1)
    cost: float = setting(0.3, "The mean load of the layers.", above=0, most=1)
    fade_out: float = setting(0.1, "Merging ends when it removes a smaller share of the tokens.", least=0, most=1)
    paper_exact: bool = setting(
        False, "Merge even if nothing is left for the remaining layers, which is then an error."
    )

    def load(self, layers: int) -> float:
        """Return the mean load, which is `cost` for any number of layers."""
        return self.cost

    def with_load(self, load: float, layers: int) -> FrameFusion:
        """Return a copy of the reduction with `load` as its `cost`.

        Raises:
            BudgetError: If `load` is not above 0.
        """
        refuse_load(load, 0, "nothing would be left")
        return replace(self, cost=load)

    def points(self, layers: int) -> Collection[LayerPoint]:
        """Return the points before the first layer and after each attention except the last."""
        return {LayerPoint(0), *(LayerPoint(layer, after_attention=True) for layer in range(layers - 1))}

    def reduce(self, state: State) -> Reduction:
        """Merge similar tokens, or drop the least attended tokens if merging has ended.

        Raises:
            BudgetError: If the layers so far have used more load than `cost` allows for all layers
                (possible only with `paper_exact`).
        """
        merged_so_far = state.notes
        sparsity = needed_sparsity(self.cost, state.layers, merged_so_far)
        # 1. Drop tokens if merging ended at the last point.
        if merged_so_far and merged_so_far[-1] < self.fade_out:
            return self._prune(state, sparsity)
        # 2. Find the share of tokens that are similar enough to merge.
        neighbors = Neighbors.build(state)
        count = len(neighbors.order)
        # The number of rows that are left decides the shapes in all later layers, so it is read.
        similar = int((neighbors.similarity >= self.similarity).sum())
        fraction = similar / count
        # 3. If merging alone reaches the load: merge only the most similar tokens, and stop.
        if fraction >= sparsity:
            return replace(neighbors.merge(state, math.floor(sparsity * count)), done=True)
        # 4. If a further merge would use up the load of all layers: drop instead.
        if not self.paper_exact and _overdraws(self.cost, state.layers, (*merged_so_far, fraction)):
            return self._prune(state, sparsity)
        # 5. Else merge all tokens that are similar enough, and go on in the next layer.
        return replace(neighbors.merge(state, similar), notes=(*merged_so_far, fraction))

    def _prune(self, state: State, sparsity: float) -> Reduction:
        """Drop the share `sparsity` of the remaining patches, the least attended patches first."""
        rows = state.patches
        # Before the first layer no layer has attended yet: use the first layer's attention.
        scores = state.from_last(upcoming=not state.notes)[rows]
        return Reduction(rows[least_of(scores, round(len(rows) * (1 - sparsity)))], done=True)


def needed_sparsity(cost: float, layers: int, merged: tuple[float, ...]) -> float:
    """Return z, the share of the remaining tokens to remove now for a mean load of `cost`.

    z = 1 - (L cost - (s_1 + ... + s_l)) / ((L - l) s_l), at least 0, where s_i is the share of
    tokens left after merge i.

    Args:
        cost: the mean load over all layers.
        layers: L, the number of layers.
        merged: the fraction of tokens that each of the l merges has removed.

    Raises:
        BudgetError: If the layers so far have used more load than `cost` allows for all layers.
    """
    spent, share = _spent(merged)
    left = layers * cost - spent
    if left < 0:
        raise BudgetError(
            f"--inner framefusion merged too few tokens to come down to {cost:g} of all; use a higher --ratio, "
            "or leave out inner.settings.framefusion.paper_exact"
        )
    # The remaining load is shared equally by the remaining layers.
    return 1 - min(1.0, left / ((layers - len(merged)) * share))


def _overdraws(cost: float, layers: int, merged: tuple[float, ...]) -> bool:
    """Return whether the layers after the merges `merged` use up the total load of all layers."""
    return layers * cost - _spent(merged)[0] <= 0


def _spent(merged: tuple[float, ...]) -> tuple[float, float]:
    """Return the sum of the layers' loads, and the share of tokens left, after all merges."""
    spent, share = 0.0, 1.0
    # Each merge is followed by one layer, which processes the tokens that are left.
    for fraction in merged:
        share *= 1 - fraction
        spent += share
    return spent, share


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Hold the patches (`State.patches`) sorted by type, with similarities between neighbors.

    Attributes:
        order: [R], indices into the patches, sorted by type and then by row.
        similarity: [R], sorted like `order`, the cosine similarity of each patch to the previous
            patch of the same type; -2 for the first patch of a type.
    """

    order: Tensor
    similarity: Tensor

    @classmethod
    def build(cls, state: State) -> Neighbors:
        """Return the patches of `state`, sorted by type, with their similarities."""
        cell = state.patch_type
        order = cell.sort(stable=True).indices
        states = state.hidden[0, state.patches[order]]
        unit = functional.normalize(states.to(working_dtype(states)), dim=-1, eps=1e-12)
        # -2 is below every cosine: the first token of a cell has no predecessor.
        similarity = torch.full((len(order),), -2.0, dtype=unit.dtype, device=unit.device)
        follows = cell[order][1:] == cell[order][:-1]
        similarity[1:] = torch.where(follows, (unit[1:] * unit[:-1]).sum(-1), -2.0)
        return cls(order, similarity)

    def merge(self, state: State, count: int) -> Reduction:
        """Merge the `count` most similar patches into the previous ones; runs become means."""
        is_merged = torch.zeros(len(self.order), dtype=torch.bool, device=self.order.device)
        # Back to prompt order, because ties go to the earlier token and not to the lower cell.
        similarity = torch.empty_like(self.similarity)
        similarity[self.order] = self.similarity
        merged = similarity.sort(descending=True, stable=True).indices[:count]
        is_merged.index_fill_(0, merged, True)
        # A run is an unmerged token and all merged tokens that follow it.
        in_cells = is_merged[self.order]
        run, rows = (~in_cells).cumsum(0) - 1, state.patches
        states = state.hidden[0, rows[self.order]]
        # The mean of a run replaces its first token.
        runs = len(run) - count
        means = group_means(states.to(working_dtype(states)), run, runs)
        hidden = state.hidden.clone()
        heads = rows[self.order[true_indices(~in_cells, runs)]]
        hidden[0, heads] = means.to(hidden.dtype)
        return Reduction(rows[merged.sort().values], hidden)
