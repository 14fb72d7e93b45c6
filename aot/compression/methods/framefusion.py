"""FrameFusion's merging and pruning, as far as they can act before the language model (arXiv 2501.01986)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens, pooled_cells, pooled_saliency
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_means
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["FrameFusion"]

_LAST = -1  # the block whose output the features are made of


@dataclass(frozen=True)
class FrameFusion:
    """Merge tokens that resemble the one before them at their place; if that is not enough, prune the least attended.

    A token whose cosine with the remaining token before it, at its place of the picture, is `threshold` or more joins
    it; a run of such tokens becomes its first one, with the plain mean of all. This is repeated until the budget is
    met, where only the most similar are merged, or a pass merges less than `least_merged` of the tokens, the last. What
    is too many then is pruned by the attention received in the vision tower's last block, a run's being its mean.

    The published method works inside the language model. What differs:
    - It merges the input of the first layer, as the first pass here, and then once after every layer's attention, on
      what the layers made of the tokens. Here later passes see the same features, merged.
    - It prunes once, by the attention that the question's last token pays inside the language model.
    - Its early layers hold more tokens than the later ones, and its ratio is their average cost. Here every layer holds
      as many as the ratio says.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2501.01986, ICCV 2025",
        remark="tokens like the one before at their place merge, then the least attended go; see --inner framefusion",
    )
    needs: ClassVar = Needs(saliency_layers=(_LAST,))

    threshold: float = 0.6
    least_merged: float = 0.1

    def __post_init__(self) -> None:
        check(
            threshold=(-1 <= self.threshold <= 1, f"must be in [-1, 1], got {self.threshold}"),
            least_merged=(0 <= self.least_merged <= 1, f"must be in [0, 1], got {self.least_merged}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order; a merged one is in the place of its run's first."""
        check_budget(tokens, budget)
        runs = _Runs.of(tokens)
        passes, merging = 0, True
        while merging and len(runs.index) > budget:
            before = len(runs.index)
            runs = runs.merged(self.threshold, before - budget)
            passes, merging = passes + 1, before - len(runs.index) >= max(1, self.least_merged * before)
        kept = runs.most_attended(budget)
        made_of = kept.made_of
        return kept_tokens(
            tokens,
            kept.features,
            kept.index,
            mass=kept.mass,
            clips=[Clip(0, pooled_cells(tokens)[0])],
            facts={"merging_passes": passes, "pruned_tokens": len(runs.index) - len(kept.index)},
            provenance=lambda: made_of().provenance(),
        )


@dataclass(frozen=True, slots=True)
class _Runs:
    """What remains, sorted by place in the picture and then by time.

    features: [m, D]. index: [m] into all F * n tokens, of the first of each run. attention: [m]. mass: [m], tokens
    merged. per_frame: n. made_of: works out what tokens they are made of.
    """

    features: Tensor
    index: Tensor
    attention: Tensor
    mass: Tensor
    per_frame: int
    made_of: Callable[[], Shares]

    @classmethod
    def of(cls, tokens: VisualTokens) -> _Runs:
        """Every pooled token, a run of one."""
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        features = pooled.to(working_dtype(pooled)).transpose(0, 1).flatten(0, 1)
        index = torch.arange(frames * per_frame, device=pooled.device).view(frames, per_frame).T.flatten()
        attention = pooled_saliency(tokens, _LAST).to(features).T.flatten()
        return cls(features, index, attention, torch.ones_like(attention), per_frame, partial(Shares.of, index))

    def merged(self, threshold: float, most: int) -> _Runs:
        """At most `most` of those that are `threshold` similar to the one before, merged into it."""
        similarity = similarity_to_previous(self.features, self.index % self.per_frame)
        heads = ~most_alike(similarity, self.index, threshold, most)
        run, index = heads.cumsum(0) - 1, self.index[heads]
        features = group_means(self.features, run, len(index))
        attention = group_means(self.attention[:, None], run, len(index))[:, 0]
        mass = torch.zeros_like(attention).index_add_(0, run, self.mass)  # whole numbers: exact in any order
        made_of = self.made_of
        return _Runs(features, index, attention, mass, self.per_frame, lambda: made_of().merged(run))

    def most_attended(self, count: int) -> _Runs:
        """The `count` most attended, of equal ones the earlier, in raster order."""
        raster = self.index.argsort()
        ranked = raster[self.attention[raster].sort(descending=True, stable=True).indices[:count]]
        kept, made_of = ranked[self.index[ranked].argsort()], self.made_of
        return _Runs(
            self.features[kept],
            self.index[kept],
            self.attention[kept],
            self.mass[kept],
            self.per_frame,
            lambda: made_of().chosen(kept),
        )


# Tokens at one place of the picture that stay alike over time: how alike, and which are merged.

__all__ = ["most_alike", "similarity_to_previous"]


def similarity_to_previous(values: Tensor, place: Tensor) -> Tensor:
    """Cosine of every row of values [m, D] with the row before it, [m]; minus infinity where that is of another place.

    place: int64 [m]. Rows are sorted by place, and by time within one.
    """
    similarity = values.new_full((len(values),), -torch.inf)
    unit = functional.normalize(values, dim=-1)
    cosine = (unit[1:] * unit[:-1]).sum(-1)
    similarity[1:] = torch.where(place[1:] == place[:-1], cosine, -torch.inf)
    return similarity


def most_alike(similarity: Tensor, index: Tensor, threshold: float, most: int) -> Tensor:
    """Which rows are at least `threshold` similar, only the `most` most similar of them: bool [m].

    index [m]: of equal ones the lower goes first.
    """
    by_index = index.argsort()
    ranked = by_index[similarity[by_index].sort(descending=True, stable=True).indices[:most]]
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    chosen[ranked] = similarity[ranked] >= threshold
    return chosen
