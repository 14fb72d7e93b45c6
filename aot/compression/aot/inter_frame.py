"""Phase II transport: within each clip, what later frames repeat moves into the keyframe's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aot.compression.aot.sinkhorn import sinkhorn
from aot.compression.ops.similarity import cosine_similarity, decision_dtype, temporal_weight
from aot.types import Clip

__all__ = ["ClipTransport", "DistinctRule", "transport_within_clips"]

_COSINE_MARGIN = 1e-6  # the published code keeps cosines this far from +-1


@dataclass(frozen=True, slots=True)
class DistinctRule:
    """Which tokens of a later frame count as changed, from q, each token's best share in the keyframe.

    "count": the `counts[frame]` smallest q (exact budgets). "quantile": q below the `level` quantile of
    its frame (published code). "threshold": q below `level` (paper).
    """

    kind: Literal["count", "quantile", "threshold"]
    level: float = 0.0
    counts: Tensor | None = None

    def select(self, q: Tensor, valid: Tensor, frames: Tensor) -> Tensor:
        """Bool [C, P]; q, valid: [C, P]; frames: [C], the frame each row belongs to. Ties: lower index first."""
        if self.kind == "threshold":
            return valid & (q < self.level)
        q = q.mul(1e12).round().div(1e12)  # matrix products round equal rows differently; equal tokens must tie
        order = q.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True)
        if self.kind == "quantile":
            return valid & (q.to(decision_dtype(q)) < self._quantile(q.gather(-1, order), valid.sum(-1))[:, None])
        assert self.counts is not None
        place = torch.arange(q.shape[-1], device=q.device).expand_as(order)
        rank = torch.empty_like(order).scatter(-1, order, place)
        return valid & (rank < self.counts[frames][:, None])

    def _quantile(self, ascending: Tensor, count: Tensor) -> Tensor:
        """Linear interpolation between order statistics; [C]."""
        values = ascending.to(decision_dtype(ascending))
        position = self.level * (count - 1).clamp_min(0).to(values.dtype)
        low = position.floor().long()
        high = torch.minimum(low + 1, (count - 1).clamp_min(0))
        at_low, at_high = (values.gather(-1, index[:, None]).squeeze(-1) for index in (low, high))
        return at_low + (position - low) * (at_high - at_low)


@dataclass(frozen=True, slots=True)
class ClipTransport:
    """distinct: bool [F, P], later frames' tokens that changed. merged: [C, P, D], each clip's keyframe tokens after
    absorbing the rest. mass: [C, P] float32, 1 plus what each of them absorbed; 0 where there is none.
    absorbed: for each frame after the keyframe [C, P, P], the mass that each of its tokens gives to each of those.
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
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stopping: Literal["published", "marginal"] = "published",
    solver: Literal["auto", "torch"] = "auto",
) -> ClipTransport:
    """Match every later frame to its clip's keyframe Y, all clips at once (docs/algorithm.md, section 4).

        C = (1 - cos(X, Y), shifted to a minimum of 0) * (1 - exp(-j^2 / (2 sigma^2)))
        T = sinkhorn(C), p = T with rows normalised, q = max over y of p[x, y]
        distinct x are left alone; the others are absorbed:
        Y <- (Y + lambda sum_x p[x, y] x) / (1 + lambda sum_x p[x, y])

    Args:
        tokens: [F, P, D] kept tokens after pooling. valid: bool [F, P], false where a frame has fewer.
        clips: consecutive runs of frames that cover all F.
    """
    dtype = decision_dtype(tokens)
    keyframes, lengths = _table(clips, tokens.device)
    key_values, key_valid = tokens[keyframes].to(dtype), valid[keyframes]
    key_weights = _uniform(key_valid, dtype)
    mass = key_valid.to(dtype)
    distinct = torch.zeros_like(valid)
    moved = []
    for offset in range(1, max(map(len, clips))):
        present = lengths > offset
        frames = keyframes + offset * present
        values, here = tokens[frames].to(dtype), valid[frames] & present[:, None]
        cost = _inter_cost(values, key_values, here, key_valid) * temporal_weight(offset, sigma_frames)
        plan = sinkhorn(
            cost,
            _uniform(here, dtype),
            key_weights,
            epsilon=epsilon,
            max_iterations=max_iterations,
            tolerance=tolerance,
            stopping=stopping,
            solver=solver,
        ).plan
        share = plan / plan.sum(-1, keepdim=True).clamp_min(1e-9)
        changed = rule.select(share.amax(-1), here, frames)
        distinct[frames] |= changed  # a clip that is too short stands at its keyframe, where nothing is distinct
        absorbed = share * (lambda_inter * (here & ~changed)[..., None])
        absorbed_mass = absorbed.sum(1)
        key_values = (key_values + absorbed.mT @ values) / (1 + absorbed_mass)[..., None]
        mass = mass + absorbed_mass
        moved.append(absorbed)
    return ClipTransport(distinct, key_values.to(tokens.dtype), mass.float(), tuple(moved))


def _table(clips: Sequence[Clip], device: torch.device) -> tuple[Tensor, Tensor]:
    """Keyframes [C] and lengths [C]."""
    rows = torch.tensor([(clip.first, len(clip)) for clip in clips], device=device)
    return rows[:, 0], rows[:, 1]


def _uniform(valid: Tensor, dtype: torch.dtype) -> Tensor:
    return valid.to(dtype) / valid.sum(-1, keepdim=True).clamp_min(1)


def _inter_cost(sources: Tensor, anchors: Tensor, source_valid: Tensor, anchor_valid: Tensor) -> Tensor:
    limit = 1 - _COSINE_MARGIN
    cost = 1 - cosine_similarity(sources, anchors).clamp(-limit, limit)
    pairs = source_valid[:, :, None] & anchor_valid[:, None, :]
    least = cost.masked_fill(~pairs, torch.inf).amin((1, 2), keepdim=True)
    return torch.where(pairs, cost - least, 0.0)
