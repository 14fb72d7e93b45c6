"""PruMerge: each frame's most attended tokens absorb their neighbours, and one token sums up the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.per_frame import FrameTokens, equal_shares, joined_frames
from aot.compression.methods.subset import pooled_keys, pooled_saliency, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.products import take_rows, weighted_sums
from aot.compression.ops.similarity import cosine_similarity
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["PruMerge"]


@dataclass(frozen=True)
class PruMerge:
    """PruMerge and, with `plus`, PruMerge+ (arXiv 2403.15388), frame by frame and for towers without a CLS token.

    In place of CLS attention stands what a token received in block `layer`, as a share of its frame's, a_j. Each kept
    token gains the sum of a_j x_j over the `neighbours` other tokens with the most similar keys (same block, mean over
    heads), and a last token is that sum over all dropped ones, placed at the most attended of them. The original works
    before the projector of a model without pooling, here it is the pooled tokens.

    Budgets are exact: of a frame's equal share S, S - 1 tokens are kept, in raster order. They are the most attended;
    with `plus`, only one in 1 + `spread_per_outlier` is, and the others stand at even strides through the rest.

    `paper_exact` keeps the tokens whose attention is an outlier of their frame (more than `whiskers` interquartile
    ranges above the third quartile), in descending order. With `plus`, every int(int(1 / share) /
    `spread_per_outlier`)-th token of the grid without its last one follows, where `share` is that of outliers (at least
    every one, and none where there is no outlier). The number kept follows the content, not the budget.

    A kept token's mass counts its neighbours, which several may share, so that masses sum up to more than all tokens.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2403.15388",
        remark="each frame's most attended tokens, their nearest ones added, and one token that sums up the rest",
    )

    plus: bool = False
    neighbours: int = 32
    spread_per_outlier: int = 3
    whiskers: float = 1.5
    layer: int = -1
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(
            neighbours=(self.neighbours >= 0, f"must not be negative, got {self.neighbours}"),
            spread_per_outlier=(self.spread_per_outlier >= 1, f"must be at least 1, got {self.spread_per_outlier}"),
            whiskers=(self.whiskers >= 0, f"must not be negative, got {self.whiskers}"),
        )

    @property
    def needs(self) -> Needs:
        return Needs(saliency_layers=(self.layer,), key_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or what stands out with `paper_exact`.

        Raises:
            BudgetError: the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        features = pool(tokens.features, tokens.grid, tokens.pool)
        metric = pooled_keys(tokens, self.layer)
        attention = pooled_saliency(tokens, self.layer)
        attention = attention / attention.sum(-1, keepdim=True)
        chosen = self._outliers(attention) if self.paper_exact else self._fixed(attention, budget)
        parts = []
        for run, kept in chosen:
            where = slice(run.first, run.stop)
            parts.append((run, _absorb(features[where], attention[where], metric[where], kept, self.neighbours)))
        return joined_frames(tokens, parts, {"most_kept_per_frame": max(kept.shape[1] for _, kept in chosen)})

    def _fixed(self, attention: Tensor, budget: int) -> list[tuple[Clip, Tensor]]:
        """Runs of frames with the tokens int64 [f, S - 1] that they keep."""
        chosen = []
        for run, share in equal_shares(attention.shape[0], attention.shape[1], budget):
            count = share - 1
            outliers = -(-count // (1 + self.spread_per_outlier)) if self.plus else count
            ranked = attention[run.first : run.stop].sort(dim=-1, descending=True, stable=True).indices
            rest = ranked[:, outliers:].sort(-1).values
            strides = torch.arange(count - outliers) * rest.shape[1] // max(count - outliers, 1)
            added = rest[:, strides.to(rest.device)]
            chosen.append((run, torch.cat([ranked[:, :outliers], added], 1).sort(-1).values))
        return chosen

    def _outliers(self, attention: Tensor) -> list[tuple[Clip, Tensor]]:
        """Single frames with the tokens [1, k] that stand out."""
        count = attention.shape[1]
        quartiles = attention.quantile(attention.new_tensor([0.25, 0.75]), dim=-1)
        bound = quartiles[1] + self.whiskers * (quartiles[1] - quartiles[0])
        ranked = attention.sort(dim=-1, descending=True, stable=True).indices
        chosen = []
        for frame, outliers in enumerate((attention > bound[:, None]).sum(-1).tolist()):
            share = outliers / count
            kept = ranked[frame, : int(count * share)]  # with the published rounding, which may lose one
            if self.plus and outliers:
                # The published range ends before the last token.
                grid = torch.arange(0, count - 1, max(1, int(1 / share) // self.spread_per_outlier), device=kept.device)
                kept = torch.cat([kept, grid[~torch.isin(grid, kept)]])
            chosen.append((Clip(frame, frame + 1), kept[None]))
        return chosen


def _absorb(features: Tensor, attention: Tensor, metric: Tensor, kept: Tensor, neighbours: int) -> FrameTokens:
    """Of features [f, n, D] with attention [f, n] and metric [f, n, d] the tokens kept [f, k], each with its neighbours
    added, and a sum of the others (unless there are none).
    """
    count = features.shape[1]
    similarity = cosine_similarity(take_rows(metric, kept), metric)
    similarity.scatter_(2, kept[..., None], -torch.inf)
    nearest = similarity.sort(dim=-1, descending=True, stable=True).indices[..., : min(neighbours, count - 1)]
    weights = torch.zeros_like(similarity, dtype=attention.dtype)
    weights.scatter_(2, nearest, attention[:, None].expand_as(weights).gather(2, nearest))
    weights.scatter_(2, kept[..., None], 1.0)
    mass = torch.full_like(kept, 1 + nearest.shape[-1])
    if kept.shape[1] < count:
        dropped = attention.scatter(1, kept, 0.0)
        weights = torch.cat([weights, dropped[:, None]], 1)
        # Attention is positive but may round to 0.
        heaviest = (dropped + torch.zeros_like(dropped).scatter(1, kept, -1.0)).argmax(-1, keepdim=True)
        kept = torch.cat([kept, heaviest], 1)
        mass = torch.cat([mass, torch.full_like(heaviest, count - mass.shape[1])], 1)
    return FrameTokens(weighted_sums(weights, features), kept, mass, lambda: weights)
