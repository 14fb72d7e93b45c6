"""VisionZip for video: each frame's most attended tokens, and a few that gather the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.per_frame import FrameTokens, equal_shares, joined_frames
from aot.compression.methods.subset import pooled_cells, pooled_keys, pooled_saliency, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.products import take_rows, weighted_sums
from aot.compression.ops.similarity import cosine_similarity
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["VisionZip"]


@dataclass(frozen=True)
class VisionZip:
    """Dominant and contextual tokens of every frame (arXiv 2412.04467, as later papers run it on video).

    Of a frame's S tokens, int(S * `dominant_share`) are those that received most attention in block `layer`,
    unchanged. At even strides through the others stand the contextual tokens; all that remain go to the contextual
    token with the most similar key (block `layer`, mean over heads), which becomes itself plus their mean. This sum,
    about twice as long as other tokens, is what is published. Dominant tokens come first, both kinds in raster order;
    where the model pools by averages, all are in one raster order, because that model marks the ends of rows. In a
    token's provenance the target and the mean hold half of it each.

    Budgets are exact: S is an equal share, for the first frames one more if it must be. `paper_exact` gives every frame
    the same S, the nearest to the budget, and on average-pooled grids repeats the published slip by which dominant
    tokens in raster order take the places of dominant tokens in the order of attention: `row` and `col` are then where
    the language model reads a token, and its provenance says where it came from.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2412.04467, CVPR 2025",
        remark="each frame's most attended tokens, and a few at even strides that absorb the rest",
    )

    dominant_share: float = 54 / 64
    layer: int = -1
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(dominant_share=(0 <= self.dominant_share < 1, f"must be in [0, 1), got {self.dominant_share}"))

    @property
    def needs(self) -> Needs:
        return Needs(saliency_layers=(self.layer,), key_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or S per frame with `paper_exact`.

        Raises:
            BudgetError: the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        features = pool(tokens.features, tokens.grid, tokens.pool)
        attention = pooled_saliency(tokens, self.layer)
        metric = pooled_keys(tokens, self.layer)
        shares = equal_shares(frames, per_frame, budget)
        if self.paper_exact:
            shares = ((Clip(0, frames), max(1, round(budget / frames))),)
        parts = []
        for run, share in shares:
            where = slice(run.first, run.stop)
            zipped = self._zip(features[where], attention[where], metric[where], share, tokens.pool.kind == "average")
            parts.append((run, zipped))
        dominant = [int(share * self.dominant_share) for _, share in shares]
        return joined_frames(tokens, parts, {"most_dominant_per_frame": max(dominant)})

    def _zip(self, features: Tensor, attention: Tensor, metric: Tensor, share: int, raster: bool) -> FrameTokens:
        """`share` tokens of each of f frames: features [f, n, D], attention [f, n], metric [f, n, d]."""
        dominant = int(share * self.dominant_share)
        ranked = attention.sort(dim=-1, descending=True, stable=True).indices
        best = ranked[:, :dominant].sort(-1).values
        targets, others = _targets(ranked[:, dominant:].sort(-1).values, share - dominant)
        weights, members = _gathering(metric, targets, others)
        zipped = FrameTokens(
            torch.cat([take_rows(features, best), weighted_sums(weights, features)], 1),
            torch.cat([best, targets], 1),
            torch.cat([torch.ones_like(best, dtype=members.dtype), 1 + members], 1),
            lambda: torch.cat([functional.one_hot(best, weights.shape[2]).to(weights), weights], 1),
        )
        if not raster:
            return zipped
        said = ranked[:, :dominant] if self.paper_exact else best
        read = torch.cat([said, targets], 1).sort(-1)
        return replace(zipped.ordered(read.indices), cell=read.values)


def _targets(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of each frame's indices `rest` [f, m] every so manyth from the first, [f, count], and the others."""
    chosen = torch.arange(count, device=rest.device) * max(1, rest.shape[1] // count)
    is_target = torch.zeros(rest.shape[1], dtype=torch.bool, device=rest.device).index_fill_(0, chosen, True)
    return rest[:, chosen], rest[:, ~is_target]


def _gathering(metric: Tensor, targets: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How contextual tokens are made of a frame's n tokens, [f, count, n]: 1 of the target and the mean of those of
    `others` [f, o] whose metric is most similar to it; and how many these are, [f, count].
    """
    similarity = cosine_similarity(take_rows(metric, targets), take_rows(metric, others))
    nearest = similarity.argmax(1, keepdim=True)
    assigned = (nearest == torch.arange(targets.shape[1], device=metric.device)[:, None]).to(similarity.dtype)
    members = assigned.sum(-1)
    shares = assigned / members.clamp_min(1)[..., None]
    weights = shares.new_zeros(*shares.shape[:2], metric.shape[1])
    weights.scatter_(2, others[:, None].expand_as(shares), shares)
    return weights.scatter_(2, targets[..., None], 1.0), members
