"""VisionZip (arXiv 2412.04467) for video: dominant and contextual tokens of each frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.per_frame import FrameTokens, equal_shares, joined_frames
from aot.compression.methods.subset import LOCAL_WINDOWS, pooled_cells, pooled_keys, pooled_saliency, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.products import take_rows, weighted_sums
from aot.compression.ops.similarity import cosine_similarity
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["VisionZip"]


@dataclass(frozen=True)
class VisionZip(CheckedSettings):
    """Keep each frame's dominant tokens, and contextual tokens that absorb all others.

    This is the video variant that later papers use for comparison. A frame keeps S tokens. The
    int(S * dominant_share) most attended tokens are dominant and stay unchanged. The other kept
    tokens are contextual: evenly spaced tokens that are not dominant. Each remaining token is
    assigned to the contextual token with the most similar key (mean over heads). A contextual token
    becomes the sum of itself and the mean of its assigned tokens, as published, and so has about
    twice the norm of other tokens. In its source weights, both terms count one half.

    In a frame, dominant tokens come before contextual tokens, and each kind is in raster order.
    With average pooling, all tokens of a frame are in one raster order, because models with average
    pooling mark the ends of rows.

    The budget is exact: frames have equal shares S; the first frames keep one token more if needed.

    With `paper_exact` and average pooling, an error in the published code is repeated: the first
    dominant token in raster order gets the cell of the most attended dominant token, and so on. The
    row and column of a token then say where the language model reads it; its source weights say
    where it comes from.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2412.04467, CVPR 2025",
        remark="each frame's most attended tokens, and evenly spaced ones that absorb the others",
    )

    dominant_share: float = setting(54 / 64, "Share of a frame's tokens that is dominant.", least=0, below=1)
    layer: int = setting(
        -1, "Block of the vision tower whose attention and keys are used; negative numbers count from the last."
    )
    paper_exact: bool = setting(False, "Every frame has the same number of tokens, the nearest to the budget.")
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    @property
    def needs(self) -> Needs:
        """Return the need for the attention received and the keys in vision tower block `layer`."""
        return Needs(saliency_layers=(self.layer,), key_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, round(budget / F) of each frame.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        # 1. Pool features, attention and keys.
        features = pool(tokens.features, tokens.grid, tokens.pool)
        attention = pooled_saliency(tokens, self.layer, budget if self.local_windows else None)
        metric = pooled_keys(tokens, self.layer)
        # 2. Decide how many tokens every frame keeps.
        shares = equal_shares(frames, per_frame, budget)
        if self.paper_exact:
            shares = ((Clip(0, frames), max(1, round(budget / frames))),)
        # 3. Select dominant and contextual tokens, in one batch per run of equal shares.
        parts = []
        for run, share in shares:
            where = slice(run.first, run.stop)
            parts.append((run, self._zip(tokens, features[where], attention[where], metric[where], share)))
        dominant = [int(share * self.dominant_share) for _, share in shares]
        return joined_frames(tokens, parts, {"most_dominant_per_frame": max(dominant)})

    def _zip(
        self, tokens: VisualTokens, features: Tensor, attention: Tensor, metric: Tensor, share: int
    ) -> FrameTokens:
        """Return `share` tokens of each frame; with average pooling, in one raster order.

        Args:
            tokens: the visual tokens of the video.
            features: [f, n, D], the pooled features.
            attention: [f, n], the attention received.
            metric: [f, n, d], the keys that decide the assignment.
            share: S, the number of tokens that a frame keeps.
        """
        # Truncated, as published.
        dominant = int(share * self.dominant_share)
        ranked = attention.sort(dim=-1, descending=True, stable=True).indices
        # Choose dominant tokens, and contextual tokens among the others.
        best = ranked[:, :dominant].sort(-1).values
        targets, others = _targets(ranked[:, dominant:].sort(-1).values, share - dominant)
        weights, members = _gathering(metric, targets, others)
        zipped = FrameTokens(
            torch.cat([take_rows(features, best), weighted_sums(weights, features)], 1),
            torch.cat([best, targets], 1),
            torch.cat([torch.ones_like(best, dtype=members.dtype), 1 + members], 1),
            torch.cat([functional.one_hot(best, weights.shape[2]).to(weights), weights], 1) if tokens.traced else None,
        )
        if tokens.pool.kind != "average":
            return zipped
        # `paper_exact` repeats the error: cells in order of attention, tokens in raster order.
        cells = ranked[:, :dominant] if self.paper_exact else best
        by_cell = torch.cat([cells, targets], 1).sort(-1)
        return replace(zipped.ordered(by_cell.indices), cell=by_cell.values)


def _targets(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` evenly spaced entries of each frame's `rest` [f, m], and all other entries."""
    # Indices 0, s, 2 s, ... with s = max(1, m // count).
    chosen = torch.arange(count) * max(1, rest.shape[1] // count)
    others = torch.ones(rest.shape[1], dtype=torch.bool).index_fill_(0, chosen, False).nonzero()[:, 0]
    return rest[:, uploaded(chosen, rest.device)], rest[:, uploaded(others, rest.device)]


def _gathering(metric: Tensor, targets: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights [f, K, n] of contextual tokens, and their numbers of members [f, K].

    Each token in `others` [f, o] is assigned to the target in `targets` [f, K] with the most
    similar `metric`, as a member. A contextual token is the target plus the mean of its members.
    """
    similarity = cosine_similarity(take_rows(metric, targets), take_rows(metric, others))
    nearest = similarity.argmax(1, keepdim=True)
    assigned = (nearest == torch.arange(targets.shape[1], device=metric.device)[:, None]).to(similarity.dtype)
    members = assigned.sum(-1)
    # For the mean, all tokens assigned to a target have equal weights.
    shares = assigned / members.clamp_min(1)[..., None]
    weights = shares.new_zeros(*shares.shape[:2], metric.shape[1])
    weights.scatter_(2, others[:, None].expand_as(shares), shares)
    return weights.scatter_(2, targets[..., None], 1.0), members
