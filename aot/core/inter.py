"""Phase II transport: within each clip, what later frames repeat moves into the keyframe's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aot.core.cost import cosine_similarity, decision_dtype, temporal_weight
from aot.core.sinkhorn import sinkhorn
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
    """distinct: bool [F, n], later frames' tokens that changed. merged: [C, n, D], each clip's keyframe with
    its kept cells replaced by what they are after absorbing the rest. mass: [C, n] float32, 1 plus what each
    keyframe token absorbed.
    """

    distinct: Tensor
    merged: Tensor
    mass: Tensor


def transport_within_clips(
    tokens: Tensor,
    kept: Tensor,
    clips: Sequence[Clip],
    rule: DistinctRule,
    *,
    sigma_frames: float = 1.5,
    lambda_inter: float = 1.0,
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stopping: Literal["published", "marginal"] = "published",
) -> ClipTransport:
    """Match every later frame to its clip's keyframe Y, all clips at once (docs/algorithm.md, section 4).

        C = (1 - cos(X, Y), shifted to a minimum of 0) * (1 - exp(-j^2 / (2 sigma^2)))
        T = sinkhorn(C), p = T with rows normalised, q = max over y of p[x, y]
        distinct x are left alone; the others are absorbed:
        Y <- (Y + lambda sum_x p[x, y] x) / (1 + lambda sum_x p[x, y])

    Args:
        tokens: [F, n, D] after pooling. kept: bool [F, n], the cells that take part.
        clips: consecutive runs of frames that cover all F.
    """
    table = _ClipTable.build(kept, clips)
    dtype = decision_dtype(tokens)
    key_values, key_valid = table.gather(tokens, table.keyframes, dtype)
    mass = key_valid.to(dtype)
    distinct = torch.zeros_like(kept)
    for offset in range(1, table.longest):
        frames, present = table.frames_at(offset)
        values, valid = table.gather(tokens, frames, dtype)
        valid = valid & present[:, None]
        cost = _inter_cost(values, key_values, valid, key_valid) * temporal_weight(offset, sigma_frames)
        plan = sinkhorn(
            cost,
            _uniform(valid, dtype),
            _uniform(key_valid, dtype),
            epsilon=epsilon,
            max_iterations=max_iterations,
            tolerance=tolerance,
            stopping=stopping,
        ).plan
        share = plan / plan.sum(-1, keepdim=True).clamp_min(1e-9)
        changed = rule.select(share.amax(-1), valid, frames)
        table.scatter_mask(distinct, frames, changed)
        absorbed = share * (lambda_inter * (valid & ~changed)[..., None])
        absorbed_mass = absorbed.sum(1)
        key_values = (key_values + absorbed.mT @ values) / (1 + absorbed_mass)[..., None]
        mass = mass + absorbed_mass
    keyframe_tokens = tokens[table.keyframes]
    ones = torch.ones(keyframe_tokens.shape[:2], device=tokens.device)
    return ClipTransport(
        distinct,
        merged=table.place(keyframe_tokens, key_values),
        mass=table.place(ones[..., None], mass[..., None]).squeeze(-1),
    )


def _uniform(valid: Tensor, dtype: torch.dtype) -> Tensor:
    return valid.to(dtype) / valid.sum(-1, keepdim=True).clamp_min(1)


def _inter_cost(sources: Tensor, anchors: Tensor, source_valid: Tensor, anchor_valid: Tensor) -> Tensor:
    limit = 1 - _COSINE_MARGIN
    cost = 1 - cosine_similarity(sources, anchors).clamp(-limit, limit)
    pairs = source_valid[:, :, None] & anchor_valid[:, None, :]
    least = cost.masked_fill(~pairs, torch.inf).amin((1, 2), keepdim=True)
    return torch.where(pairs, cost - least, 0.0)


@dataclass(frozen=True, slots=True)
class _ClipTable:
    """Kept cells of every frame, padded to the fullest frame (P), and the frames of every clip."""

    cells: Tensor  # [F, P] kept cells in raster order, then padding
    valid: Tensor  # [F, P]
    keyframes: Tensor  # [C]
    lengths: Tensor  # [C]
    longest: int

    @classmethod
    def build(cls, kept: Tensor, clips: Sequence[Clip]) -> _ClipTable:
        counts = kept.sum(1)
        fullest = int(counts.max())
        cells = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :fullest]
        valid = torch.arange(fullest, device=kept.device) < counts[:, None]
        keyframes = torch.tensor([clip.first for clip in clips], device=kept.device)
        lengths = torch.tensor([len(clip) for clip in clips], device=kept.device)
        return cls(cells, valid, keyframes, lengths, max(len(clip) for clip in clips))

    def frames_at(self, offset: int) -> tuple[Tensor, Tensor]:
        """The frame `offset` after each keyframe, and whether the clip is that long."""
        present = self.lengths > offset
        return self.keyframes + offset * present, present

    def gather(self, tokens: Tensor, frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Kept tokens of one frame per clip [C, P, D], zero where padded, and their validity [C, P]."""
        valid = self.valid[frames]
        values = tokens[frames[:, None], self.cells[frames]].to(dtype)
        return values * valid[..., None], valid

    def scatter_mask(self, mask: Tensor, frames: Tensor, chosen: Tensor) -> None:
        """Set mask [F, n] at the chosen [C, P] cells of `frames`."""
        clip, place = chosen.nonzero(as_tuple=True)
        mask[frames[clip], self.cells[frames[clip], place]] = True

    def place(self, keyframe_values: Tensor, kept_values: Tensor) -> Tensor:
        """A copy of keyframe_values [C, n, D] with the keyframes' kept cells set to kept_values [C, P, D]."""
        clip, place = self.valid[self.keyframes].nonzero(as_tuple=True)
        cell = self.cells[self.keyframes[clip], place]
        return keyframe_values.index_put((clip, cell), kept_values[clip, place].to(keyframe_values.dtype))
