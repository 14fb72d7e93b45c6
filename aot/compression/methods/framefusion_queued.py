"""FrameFusion without waiting for the device; see `aot.compression.methods.framefusion`.

The number of passes depends on the content, so all possible passes are queued, and those after the
last one change nothing. They must be cheap: they compute with the products of all tokens of a cell
instead of the tokens. A run is a weighted mean of the tokens of its cell, so its products follow
from these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import decision_dtype
from aot.types import SourceWeights

__all__ = ["QueuedRuns"]

_MOST_PASSES = 64  # beyond this, the host waits to learn whether a pass is needed


@dataclass(slots=True)
class QueuedRuns:
    """Merge the tokens of each cell over time; a run has the slot of its first frame.

    Attributes:
        weights: [n, F, F], for each cell and slot, the weight of each frame's token in the run.
        products: [n, F, F], the inner products of the runs of a cell.
        slot: int64 [F], the numbers of the slots.
        alive: bool [n, F], whether a run has this slot.
        last: int64 [n, F], the last slot of a run up to each slot.
        passes: int64 [], the number of passes so far.
    """

    weights: Tensor
    products: Tensor
    slot: Tensor
    alive: Tensor
    last: Tensor
    passes: Tensor

    @classmethod
    def of(cls, features: Tensor) -> QueuedRuns:
        """Return one run for each token of `features` [F, n, D]."""
        dtype, device = decision_dtype(features), features.device
        by_cell = features.transpose(0, 1).to(dtype)
        slot = torch.arange(len(features), device=device)
        return cls(
            torch.eye(len(features), dtype=dtype, device=device).expand(len(by_cell), -1, -1),
            by_cell @ by_cell.mT,
            slot,
            torch.ones(by_cell.shape[:2], dtype=torch.bool, device=device),
            slot.expand(len(by_cell), -1),
            torch.zeros((), dtype=torch.long, device=device),
        )

    def merge(self, threshold: float, budget: int, least_merged: float) -> None:
        """Merge pass after pass, as `FrameFusion` does, down to `budget` runs at the lowest."""
        total = self.alive.numel()
        count, is_limited = self.alive.sum(), self.passes > 0
        active = count > budget
        # 1. Passes in which all similar runs are merged.
        most = _most_passes(total, budget, least_merged)
        for number in range(total if most is None else most):
            if (most is None or number >= _MOST_PASSES) and not active:
                break
            similar = self._similarity() >= threshold
            found = similar.sum()
            goes_on = active & (found < count - budget)
            is_limited = is_limited | (active & ~goes_on)
            self.passes = self.passes + active
            self._join(similar & goes_on)
            active = goes_on & (found >= (least_merged * count).clamp_min(1))
            count = count - found * goes_on
        # 2. A pass that would go below the budget: merge the most similar runs only. Ties go to the
        # lower index among F * n.
        similarity = self._similarity().T
        ranked = similarity.flatten().sort(descending=True, stable=True).indices
        rank = torch.empty_like(ranked).scatter_(0, ranked, torch.arange(total, device=ranked.device))
        is_merged = (rank < count - budget).view_as(similarity) & (similarity >= threshold) & is_limited
        self._join(is_merged.T)

    def _similarity(self) -> Tensor:
        """Return the cosine similarity of each run to the previous run of its cell: [n, F].

        It is -inf for the first run of a cell, and in slots without a run.
        """
        previous = self.last[:, :-1]
        length = self.products.diagonal(dim1=1, dim2=2).clamp_min(1e-24).sqrt()
        inner = self.products[:, 1:].gather(2, previous[..., None])[..., 0]
        cosine = inner / (length[:, 1:] * length.gather(1, previous))
        # The first token of a cell never joins another, so slot 0 is always a run.
        cosine = torch.where(self.alive[:, 1:], cosine, -torch.inf)
        return functional.pad(cosine, (1, 0), value=-torch.inf)

    def _join(self, is_merged: Tensor) -> None:
        """Merge the runs `is_merged`, bool [n, F], into the previous runs of their cells."""
        heads = self.alive & ~is_merged
        self.last = torch.where(heads, self.slot, 0).cummax(1).values
        # Entry [cell, head, slot] is 1 if the run at `slot` joins the run at `head`.
        joins = ((self.last[:, None] == self.slot[:, None]) & self.alive[:, None]).to(self.weights.dtype)
        mean = joins / joins.sum(-1, keepdim=True).clamp_min(1)
        self.weights = mean @ self.weights
        self.products = mean @ self.products @ mean.mT
        self.alive = heads

    def most_attended(self, attention: Tensor, budget: int) -> Tensor:
        """Return the `budget` most attended runs: ascending indices among F * n.

        `attention` is [F, n]; a run has the mean of the runs of which it was merged.
        """
        means = (self.weights @ attention.T[..., None].to(self.weights.dtype))[..., 0]
        ranked = means.masked_fill(~self.alive, -torch.inf).T.flatten().sort(descending=True, stable=True)
        return ranked.indices[:budget].sort().values

    def features(self, values: Tensor, index: Tensor) -> Tensor:
        """Return the means [K, D] of the runs `index` [K], given the tokens `values` [F, n, D]."""
        per_frame = values.shape[1]
        means = self.weights.to(values.dtype) @ values.transpose(0, 1)
        return means[index % per_frame, index // per_frame]

    def masses(self, index: Tensor) -> Tensor:
        """Return the masses [K] of the runs `index` [K]."""
        return (self.weights > 0).sum(-1).T.flatten()[index]

    def sources(self, index: Tensor) -> SourceWeights:
        """Wait for the device, and return the sources of the runs `index` [K]."""
        per_frame = len(self.weights)
        weights = self.weights[index % per_frame, index // per_frame].cpu()
        token, frame = weights.nonzero(as_tuple=True)
        source = frame * per_frame + index.cpu()[token] % per_frame
        return SourceWeights(len(index), token, source, weights[token, frame].double())


def _most_passes(total: int, budget: int, least_merged: float) -> int | None:
    """Return the largest possible number of passes; None if there is no useful bound."""
    if least_merged in (0, 1) or budget >= total:
        return None if least_merged == 0 else 1
    # A pass is the last one if it leaves more than the share 1 - `least_merged` of the runs.
    return math.ceil(math.log(budget / total) / math.log1p(-least_merged)) + 1
