"""Phase II: in each clip, merge tokens of later frames into similar tokens of the keyframe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from aot.compression.aot.sinkhorn import SinkhornSettings, sinkhorn
from aot.compression.ops.similarity import cosine_similarity, decision_dtype, temporal_weight
from aot.types import Clip

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ClipTransport", "DistinctRule", "transport_within_clips"]

_COSINE_MARGIN = 1e-6  # the published code clamps cosines to +-(1 - this)


@dataclass(frozen=True, slots=True)
class DistinctRule:
    """Hold the rule that decides which tokens of later frames are distinct: kept, not merged.

    The rule reads q, the largest share of a token that a single keyframe token would receive.

    Attributes:
        kind: which tokens are distinct. "count": the counts[f] tokens of frame f with the smallest
            q (exact budgets). "quantile": tokens whose q is below the `level` quantile of the
            frame (published code). "threshold": tokens whose q is below `level` (paper).
        level: the setting `keep_ratio` if `kind` is "quantile", `tau` if it is "threshold".
        counts: [F], the number of distinct tokens of every frame, only if `kind` is "count".
    """

    kind: Literal["count", "quantile", "threshold"]
    level: float = 0.0
    counts: Tensor | None = None

    def select(self, q: Tensor, valid: Tensor, frames: Tensor) -> Tensor:
        """Return which tokens are distinct, bool [C, P], for one frame of every clip.

        "count" takes the token with the lower index first if tokens have equal q.

        Args:
            q: [C, P], see `DistinctRule`.
            valid: bool [C, P], false for padding.
            frames: [C], the index of the frame that each row describes.
        """
        if self.kind == "threshold":
            return valid & (q < self.level)
        # Matrix products round equal rows differently, but equal tokens must have equal q.
        q = q.mul(1e12).round().div(1e12)
        order = q.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True)
        if self.kind == "quantile":
            return valid & (q.to(decision_dtype(q)) < self._quantile(q.gather(-1, order), valid.sum(-1))[:, None])
        assert self.counts is not None
        # The rank of a token is its index in the ascending order.
        index = torch.arange(q.shape[-1], device=q.device).expand_as(order)
        rank = torch.empty_like(order).scatter(-1, order, index)
        return valid & (rank < self.counts[frames][:, None])

    def _quantile(self, ascending: Tensor, count: Tensor) -> Tensor:
        """Return the `level` quantile of each row, interpolated linearly: [C].

        Args:
            ascending: [C, P], the values of each row in ascending order, then padding.
            count: [C], the number of values in each row.
        """
        # The same as torch.quantile, but for rows with different counts.
        values = ascending.to(decision_dtype(ascending))
        position = self.level * (count - 1).clamp_min(0).to(values.dtype)
        low = position.floor().long()
        high = torch.minimum(low + 1, (count - 1).clamp_min(0))
        at_low, at_high = (values.gather(-1, index[:, None]).squeeze(-1) for index in (low, high))
        return at_low + (position - low) * (at_high - at_low)


@dataclass(frozen=True, slots=True)
class ClipTransport:
    """Hold the result of Phase II.

    Attributes:
        distinct: bool [F, P], true for distinct tokens, which later frames keep.
        merged: [C, P, D], the keyframe tokens Y of each clip after absorbing other tokens.
        mass: float32 [C, P], 1 plus the mass that each merged token absorbed; 0 for padding.
        absorbed: one [C, P, P] for each offset j = 1, 2, ... from the keyframe: the mass that each
            token of frame j (axis 1) gives to each keyframe token (axis 2).
    """

    distinct: Tensor
    merged: Tensor
    mass: Tensor
    absorbed: tuple[Tensor, ...]


def transport_within_clips(
    tokens: Tensor,
    valid: Tensor,
    clips: Sequence[Clip],
    rule: DistinctRule,
    *,
    sigma_frames: float = 1.5,
    lambda_inter: float = 1.0,
    **settings: Unpack[SinkhornSettings],
) -> ClipTransport:
    """Transport later frames X into the keyframe Y of their clip (docs/algorithm.md, section 4).

        C = (1 - cos(X, Y), shifted to a minimum of 0) (1 - exp(-j^2 / (2 sigma_frames^2)))
        T = Sinkhorn(exp(-C / epsilon)), with equal row sums and equal column sums
        p = T, each row divided by its sum;  q[x] = max over y of p[x, y]
        Y <- (Y + lambda_inter sum_x p[x, y] x) / (1 + lambda_inter sum_x p[x, y])

    Frame X is j frames after keyframe Y. The sums are over the tokens x that are not distinct
    according to `rule`. The frames j = 1 of all clips are processed together, then j = 2 and so on.

    Args:
        tokens: [F, P, D], kept tokens after pooling.
        valid: bool [F, P], false for padding.
        clips: consecutive runs of frames that cover all F.
        rule: decides which tokens are distinct.
        sigma_frames: the scale of the temporal distance j, in frames.
        lambda_inter: the weight of the absorbed tokens relative to Y.
        **settings: passed to `sinkhorn`.
    """
    # In float64: the order of the q can depend on differences of 1e-7.
    dtype = decision_dtype(tokens)
    keyframes, lengths = _table(clips, tokens.device)
    key_values, key_valid = tokens[keyframes].to(dtype), valid[keyframes]
    key_weights = _uniform(key_valid, dtype)
    mass = key_valid.to(dtype)
    distinct = torch.zeros_like(valid)
    moved = []
    for offset in range(1, max(map(len, clips))):
        # 1. X of every clip. For clips that are too short: the keyframe, with no valid token.
        present = lengths > offset
        frames = keyframes + offset * present
        values, here = tokens[frames].to(dtype), valid[frames] & present[:, None]
        # 2. The cost C and the plan T.
        cost = _inter_cost(values, key_values, here, key_valid) * temporal_weight(offset, sigma_frames)
        plan = sinkhorn(cost, _uniform(here, dtype), key_weights, **settings).plan
        # 3. The shares p and their maximum q decide which tokens are distinct.
        share = plan / plan.sum(-1, keepdim=True).clamp_min(1e-9)
        changed = rule.select(share.amax(-1), here, frames)
        distinct[frames] |= changed
        # 4. The keyframe tokens absorb the other tokens; the next frame uses the new values.
        absorbed = share * (lambda_inter * (here & ~changed)[..., None])
        absorbed_mass = absorbed.sum(1)
        key_values = (key_values + absorbed.mT @ values) / (1 + absorbed_mass)[..., None]
        mass = mass + absorbed_mass
        moved.append(absorbed)
    return ClipTransport(distinct, key_values.to(tokens.dtype), mass.float(), tuple(moved))


def _table(clips: Sequence[Clip], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index of the keyframe and the number of frames of each clip, both [C]."""
    rows = torch.tensor([(clip.first, len(clip)) for clip in clips], device=device)
    return rows[:, 0], rows[:, 1]


def _uniform(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Return equal weights for the valid tokens of each row, with sum 1; 0 for padding."""
    return valid.to(dtype) / valid.sum(-1, keepdim=True).clamp_min(1)


def _inter_cost(sources: Tensor, anchors: Tensor, source_valid: Tensor, anchor_valid: Tensor) -> Tensor:
    """Return 1 - cos(X, Y), [C, P, P], after subtracting each clip's minimum; 0 for padding."""
    limit = 1 - _COSINE_MARGIN
    cost = 1 - cosine_similarity(sources, anchors).clamp(-limit, limit)
    pairs = source_valid[:, :, None] & anchor_valid[:, None, :]
    # As published. The shift scales K and r but not T; only the stopping rule depends on it.
    least = cost.masked_fill(~pairs, torch.inf).amin((1, 2), keepdim=True)
    return torch.where(pairs, cost - least, 0.0)
