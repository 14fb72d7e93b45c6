"""Phase I transport: within each frame, the unselected patches' information moves into the anchors.

Every new anchor is a weighted sum of its frame's patches, and so is every pooled token. Both together are one matrix
per frame, so no changed copy of the features is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aot.compression.aot.sinkhorn import sinkhorn
from aot.compression.ops.grid import patch_distances
from aot.compression.ops.products import cosine_to_anchors
from aot.types import TransportPlan

__all__ = ["FrameTransport", "transport_within_frames"]


@dataclass(frozen=True, slots=True)
class FrameTransport:
    """What every anchor becomes. anchor_index: [F, M] patches. mixing: [F, M, N], the weight of each of the frame's
    patches in the new anchor; rows sum to 1. plan: [F, N, M], zero for the anchors themselves.
    """

    anchor_index: Tensor
    mixing: Tensor
    plan: TransportPlan

    def weights(self, pooling: Tensor) -> Tensor:
        """What `pooling` [F, P, N] takes of every patch, the anchors replaced: [F, P, N]."""
        index = self.anchor_index[:, None, :].expand(-1, pooling.shape[1], -1)
        of_anchors = pooling.gather(2, index)
        return pooling.scatter(2, index, 0.0) + of_anchors @ self.mixing


def transport_within_frames(
    features: Tensor,
    anchors: Tensor,
    anchor_count: int,
    grid: tuple[int, int],
    *,
    spatial_weight: float = 0.5,
    nearest_blend: float = 0.1,
    lambda_intra: float = 1.0,
    mass: Literal["plan", "token"] = "plan",
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stopping: Literal["published", "marginal"] = "published",
    solver: Literal["auto", "torch"] = "auto",
) -> FrameTransport | None:
    """How the anchors of every frame change (docs/algorithm.md, section 2).

        C = 1 - cos(x_u, x_a) + spatial_weight * |position_u - position_a|, T = sinkhorn(C)
        ot_a = (x_a + lambda sum_u T[u, a] x_u) / (1 + lambda sum_u T[u, a])
        near_a = (x_a + sum of the u most similar to a) / (1 + their count)
        x_a <- (1 - nearest_blend) ot_a + nearest_blend near_a

    Args:
        features: [F, N, D] after the projector, before pooling.
        anchors: bool [F, N] with exactly `anchor_count` true in every frame.
        mass: "plan", total mass 1 per frame (published); "token", one unit per unselected patch.

    Returns:
        None if every patch is an anchor, when there is nothing to move.
    """
    if anchor_count == features.shape[1]:
        return None
    index = anchors.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :anchor_count]
    similarity = cosine_to_anchors(features, index)
    cost = 1 - similarity
    if spatial_weight:
        cost += spatial_weight * patch_distances(grid).to(cost)[index].mT
    sources = (~anchors).to(cost.dtype)
    n_sources = features.shape[1] - anchor_count
    solved = sinkhorn(
        cost,
        sources / n_sources,
        cost.new_full(index.shape, 1 / anchor_count),
        epsilon=epsilon,
        max_iterations=max_iterations,
        tolerance=tolerance,
        stopping=stopping,
        solver=solver,
        joint=True,
    )
    unit = float(n_sources) if mass == "token" else 1.0
    columns = torch.arange(anchor_count, device=features.device)
    nearest = (similarity.argmax(-1, keepdim=True) == columns) * sources[:, :, None]
    mixing, own_share = _blend(solved.plan * (lambda_intra * unit), nearest, nearest_blend)
    return FrameTransport(index, mixing.scatter(1, index[:, None, :], own_share[:, None, :]).mT, solved)


def _blend(moved: Tensor, nearest: Tensor, nearest_blend: float) -> tuple[Tensor, Tensor]:
    """Both averages as one set of weights: sources' shares of every anchor [F, N, M] and the anchor's own [F, M]."""
    moved_share = (1 - nearest_blend) / (1 + moved.sum(1))
    nearest_share = nearest_blend / (1 + nearest.sum(1))
    return moved * moved_share[:, None, :] + nearest * nearest_share[:, None, :], moved_share + nearest_share
