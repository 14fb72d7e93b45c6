"""PruMerge and PruMerge+ (arXiv 2403.15388): the most attended tokens absorb similar tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.per_frame import FrameTokens, equal_shares, joined_frames
from aot.compression.methods.subset import LOCAL_WINDOWS, pooled_keys, pooled_saliency, whole_video, without_sinks
from aot.compression.ops.grid import pool
from aot.compression.ops.products import take_rows, weighted_sums
from aot.compression.ops.similarity import cosine_similarity
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["PruMerge"]


@dataclass(frozen=True)
class PruMerge(CheckedSettings):
    """Keep each frame's most attended tokens, add similar tokens to each, and sum up the others.

    This is a port to video and to vision towers without a CLS token. The attention of the CLS token
    is replaced by a_j, the attention that token j receives in block `layer`, divided by the total
    of its frame. To each kept token, a_j x_j is added for the `neighbors` other tokens x_j with the
    most similar keys (same block, mean over heads). One more token is the sum of a_j x_j over all
    dropped tokens, at the cell of the most attended dropped token. The published method works
    before the projector of a model without pooling; this port works on pooled tokens.

    The budget is exact. In a frame with the share S, S - 1 tokens are kept, in raster order: the
    most attended tokens or, with `plus`, `spread_per_outlier` evenly spaced tokens for each most
    attended token. A token can be added to several kept tokens and counts in the mass of each of
    them, so the masses of a video can sum to more than its number of tokens.

    With `paper_exact`, a frame keeps its outliers (see `whiskers`), by descending attention. With
    `plus`, these are followed by the other tokens among every k-th token of the frame, without the
    last token of the frame: k = int(1 / share) // spread_per_outlier, at least 1, where share is
    the number of outliers / n. A frame without outliers keeps only the sum of its tokens.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2403.15388",
        remark="each frame's most attended tokens, the most similar ones added, and one token that sums up the rest",
    )

    plus: bool = setting(False, "PruMerge+, which also keeps evenly spaced tokens.")
    neighbors: int = setting(32, "How many similar tokens are added to a kept one.", least=0)
    spread_per_outlier: int = setting(3, "With `plus`: evenly spaced tokens per most attended token.", least=1)
    whiskers: float = setting(
        1.5,
        "With `paper_exact`: a token is an outlier if its attention is more than this many interquartile ranges "
        "above the third quartile of its frame.",
        least=0,
    )
    layer: int = setting(
        -1, "Block of the vision tower whose attention and keys are used; negative numbers count from the last."
    )
    paper_exact: bool = setting(False, "Keep the outliers of each frame, so that the count depends on the content.")
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    @property
    def needs(self) -> Needs:
        """Return the need for the attention received and the keys in vision tower block `layer`."""
        return Needs(saliency_layers=(self.layer,), key_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, the outliers of each frame.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        # 1. Attention received, divided by the total of the frame.
        features = pool(tokens.features, tokens.grid, tokens.pool)
        metric = pooled_keys(tokens, self.layer)
        attention = pooled_saliency(tokens, self.layer)
        attention = attention / attention.sum(-1, keepdim=True)
        # 2. Choose the tokens that every frame keeps.
        ranking = without_sinks(tokens, attention, budget) if self.local_windows else attention
        chosen = self._outliers(ranking) if self.paper_exact else self._fixed(ranking, budget)
        # 3. Kept tokens absorb their neighbors; one more token absorbs the dropped tokens.
        parts = []
        for run, kept in chosen:
            where = slice(run.first, run.stop)
            parts.append((run, _absorb(features[where], attention[where], metric[where], kept, self.neighbors)))
        return joined_frames(tokens, parts, {"most_kept_per_frame": max(kept.shape[1] for _, kept in chosen)})

    def _fixed(self, attention: Tensor, budget: int) -> list[tuple[Clip, Tensor]]:
        """Return runs of f frames with equal shares S, and the kept cells: int64 [f, S - 1]."""
        chosen = []
        for run, share in equal_shares(attention.shape[0], attention.shape[1], budget):
            # One token of the share is the sum of the dropped tokens.
            count = share - 1
            outliers = -(-count // (1 + self.spread_per_outlier)) if self.plus else count
            ranked = attention[run.first : run.stop].sort(dim=-1, descending=True, stable=True).indices
            # Choose evenly spaced tokens among all but the most attended tokens.
            rest = ranked[:, outliers:].sort(-1).values
            strides = torch.arange(count - outliers) * rest.shape[1] // max(count - outliers, 1)
            added = rest[:, uploaded(strides, rest.device)]
            chosen.append((run, torch.cat([ranked[:, :outliers], added], 1).sort(-1).values))
        return chosen

    def _outliers(self, attention: Tensor) -> list[tuple[Clip, Tensor]]:
        """Return one run per frame, with the cells [1, k] that it keeps, as published."""
        count = attention.shape[1]
        # An outlier is above the upper whisker of a box plot.
        quartiles = attention.quantile(attention.new_tensor([0.25, 0.75]), dim=-1)
        bound = quartiles[1] + self.whiskers * (quartiles[1] - quartiles[0])
        ranked = attention.sort(dim=-1, descending=True, stable=True).indices
        chosen = []
        for frame, outliers in enumerate((attention > bound[:, None]).sum(-1).tolist()):
            share = outliers / count
            # The published rounding, which may lose one token.
            kept = ranked[frame, : int(count * share)]
            if self.plus and outliers:
                # The published range ends before the last token.
                grid = torch.arange(0, count - 1, max(1, int(1 / share) // self.spread_per_outlier), device=kept.device)
                kept = torch.cat([kept, grid[~torch.isin(grid, kept)]])
            chosen.append((Clip(frame, frame + 1), kept[None]))
        return chosen


def _absorb(features: Tensor, attention: Tensor, metric: Tensor, kept: Tensor, neighbors: int) -> FrameTokens:
    """Return the kept tokens with their neighbors added, and one sum of the dropped tokens, if any.

    Args:
        features: [f, n, D].
        attention: [f, n], the attention received divided by the total of the frame.
        metric: [f, n, d], the keys that decide which tokens are neighbors.
        kept: int64 [f, k], the cells of the kept tokens.
        neighbors: the number of tokens to add to each kept token.
    """
    count = features.shape[1]
    # Find the most similar other tokens of every kept token; these may be kept tokens too.
    similarity = cosine_similarity(take_rows(metric, kept), metric)
    # No token is its own neighbor.
    similarity.scatter_(2, kept[..., None], -torch.inf)
    nearest = similarity.sort(dim=-1, descending=True, stable=True).indices[..., : min(neighbors, count - 1)]
    # A kept token has weight 1; the weight of a neighbor is its attention.
    weights = torch.zeros_like(similarity, dtype=attention.dtype)
    weights.scatter_(2, nearest, attention[:, None].expand_as(weights).gather(2, nearest))
    weights.scatter_(2, kept[..., None], 1.0)
    mass = torch.full_like(kept, 1 + nearest.shape[-1])
    # Add one token: the attention-weighted sum of the dropped tokens.
    if kept.shape[1] < count:
        dropped = attention.scatter(1, kept, 0.0)
        weights = torch.cat([weights, dropped[:, None]], 1)
        # Find the most attended dropped token. Attention may round to 0, so kept tokens get -1.
        heaviest = (dropped + torch.zeros_like(dropped).scatter(1, kept, -1.0)).argmax(-1, keepdim=True)
        kept = torch.cat([kept, heaviest], 1)
        mass = torch.cat([mass, torch.full_like(heaviest, count - mass.shape[1])], 1)
    return FrameTokens(weighted_sums(weights, features), kept, mass, weights)
