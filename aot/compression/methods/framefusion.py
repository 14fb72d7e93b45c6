"""FrameFusion (arXiv 2501.01986): merging and pruning, moved before the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.framefusion_queued import QueuedRuns
from aot.compression.methods.subset import LOCAL_WINDOWS, check_budget, kept_tokens, pooled_cells, pooled_saliency
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_means
from aot.compression.ops.padding import is_queued
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import chosen, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, SourceWeights, VisualTokens

__all__ = ["FrameFusion", "most_alike", "similarity_to_previous"]

_LAST = -1  # the last block, whose output becomes the features


@dataclass(frozen=True)
class FrameFusion(CheckedSettings):
    """Merge tokens that are similar over time, then prune the least attended tokens if needed.

    A token is merged into the previous remaining token of its cell if their cosine similarity is at
    least `threshold`. A run of merged tokens is replaced by its mean, at the cell of its first
    token. Passes repeat until the budget is met or a pass merges less than the share `least_merged`
    of the tokens. If a pass would go below the budget, it merges only the most similar tokens.
    Tokens above the budget after the last pass are pruned by the attention received in the last
    block of the vision tower; a run has the mean attention of its tokens.

    The published method works inside the language model (see --inner framefusion). Differences:
    - It merges the input of the first layer, as the first pass does here, then the hidden states
      after the attention of every layer. Here later passes use the merged features.
    - It prunes once, by the attention of the last prompt token inside the language model.
    - Its early layers process more tokens than later layers, and the ratio is the mean over layers.
      Here the ratio sets the number of tokens of every layer.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2501.01986, ICCV 2025",
        remark="similar tokens of a cell are merged over time, then the least attended pruned; see --inner framefusion",
    )
    needs: ClassVar = Needs(saliency_layers=(_LAST,))

    threshold: float = setting(0.6, "Least cosine similarity of tokens that are merged.", least=-1, most=1)
    least_merged: float = setting(
        0.1, "A pass that merges a smaller share of the tokens is the last one.", least=0, most=1
    )
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens in raster order; a run has the cell of its first token.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        if is_queued(tokens.features.device):
            return self._queued(tokens, budget)
        # 1. Merge, pass after pass.
        runs = _Runs.of(tokens, self._saliency(tokens, budget))
        passes, merging = 0, True
        while merging and len(runs.index) > budget:
            before = len(runs.index)
            runs = runs.merged(self.threshold, before - budget)
            passes, merging = passes + 1, before - len(runs.index) >= max(1, self.least_merged * before)
        # 2. Prune the tokens above the budget.
        kept = runs.most_attended(budget)
        return kept_tokens(
            tokens,
            kept.features,
            kept.index,
            mass=kept.mass,
            clips=[Clip(0, pooled_cells(tokens)[0])],
            facts={"merging_passes": passes, "pruned_tokens": len(runs.index) - len(kept.index)},
            sources=kept.sources,
        )

    def _saliency(self, tokens: VisualTokens, budget: int) -> Tensor:
        return pooled_saliency(tokens, _LAST, budget if self.local_windows else None)

    def _queued(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Compress in the same way without waiting for the device."""
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        budget, values = min(budget, pooled.shape[0] * pooled.shape[1]), pooled.to(working_dtype(pooled))
        runs = QueuedRuns.of(values)
        runs.merge(self.threshold, budget, self.least_merged)
        index = runs.most_attended(self._saliency(tokens, budget), budget)
        return kept_tokens(
            tokens,
            runs.features(values, index),
            index,
            mass=runs.masses(index),
            clips=[Clip(0, len(pooled))],
            facts=counted_later({"merging_passes": runs.passes, "pruned_tokens": runs.alive.sum() - budget}),
            sources=runs.sources(index) if tokens.traced else None,
        )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Hold m runs of merged tokens, sorted by cell and then by time.

    Attributes:
        features: [m, D], the mean of each run.
        index: [m], the index of each run's first token among the F * n pooled tokens.
        attention: [m], the mean attention received by the tokens of a run.
        mass: [m], the number of tokens in a run.
        per_frame: n, the number of tokens per frame.
        sources: the sources of the runs if the video is traced, else None.
    """

    features: Tensor
    index: Tensor
    attention: Tensor
    mass: Tensor
    per_frame: int
    sources: SourceWeights | None

    @classmethod
    def of(cls, tokens: VisualTokens, saliency: Tensor) -> _Runs:
        """Return one run for each pooled token; `saliency` is [F, n]."""
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        # Transpose frames and cells: the tokens of a cell must follow each other.
        features = pooled.to(working_dtype(pooled)).transpose(0, 1).flatten(0, 1)
        index = torch.arange(frames * per_frame, device=pooled.device).view(frames, per_frame).T.flatten()
        attention = saliency.to(features).T.flatten()
        sources = unchanged(index) if tokens.traced else None
        return cls(features, index, attention, torch.ones_like(attention), per_frame, sources)

    def merged(self, threshold: float, most: int) -> _Runs:
        """Merge up to `most` runs, the most similar first, into the previous run of their cell.

        Only runs with a similarity of at least `threshold` are merged.
        """
        similarity = similarity_to_previous(self.features, self.index % self.per_frame)
        heads = ~most_alike(similarity, self.index, threshold, most)
        # A head and the merged tokens after it form one run.
        run, index = heads.cumsum(0) - 1, self.index[heads]
        features = group_means(self.features, run, len(index))
        attention = group_means(self.attention[:, None], run, len(index))[:, 0]
        mass = torch.zeros_like(attention).index_add_(0, run, self.mass)  # integers: exact in any order
        sources = merged(self.sources, run) if self.sources else None
        return _Runs(features, index, attention, mass, self.per_frame, sources)

    def most_attended(self, count: int) -> _Runs:
        """Return the `count` most attended runs in raster order; ties go to the lower index."""
        raster = self.index.argsort()
        ranked = raster[self.attention[raster].sort(descending=True, stable=True).indices[:count]]
        kept = ranked[self.index[ranked].argsort()]
        return _Runs(
            self.features[kept],
            self.index[kept],
            self.attention[kept],
            self.mass[kept],
            self.per_frame,
            chosen(self.sources, kept) if self.sources else None,
        )


def similarity_to_previous(values: Tensor, cell: Tensor) -> Tensor:
    """Return [m], the cosine similarity of each row to the previous row of the same cell.

    The first row of a cell has -inf. The rows of `values` [m, D] are sorted by `cell`, int64 [m],
    then by time.
    """
    similarity = values.new_full((len(values),), -torch.inf)
    unit = functional.normalize(values, dim=-1)
    cosine = (unit[1:] * unit[:-1]).sum(-1)
    # The rows of a cell are adjacent, so one comparison per row is enough.
    similarity[1:] = torch.where(cell[1:] == cell[:-1], cosine, -torch.inf)
    return similarity


def most_alike(similarity: Tensor, index: Tensor, threshold: float, most: int) -> Tensor:
    """Return which rows to merge, bool [m]: at most `most` rows, those of highest similarity.

    Only rows with a `similarity` [m] of at least `threshold` are merged. Ties go to the row with
    the lower `index` [m].
    """
    # Sort by index first; the stable sort by similarity then keeps the order of ties.
    by_index = index.argsort()
    ranked = by_index[similarity[by_index].sort(descending=True, stable=True).indices[:most]]
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    chosen[ranked] = similarity[ranked] >= threshold
    return chosen
