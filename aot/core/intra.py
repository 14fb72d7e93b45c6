"""Phase I transport: within each frame, the unselected patches' information moves into the anchors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from aot.core.cost import cosine_similarity, working_dtype
from aot.core.grid import patch_distances
from aot.core.sinkhorn import sinkhorn
from aot.types import TransportPlan

__all__ = ["transport_within_frames"]


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
) -> tuple[Tensor, TransportPlan | None]:
    """Update the anchors of every frame in place of their old values (docs/algorithm.md, section 2).

        C = 1 - cos(x_u, x_a) + spatial_weight * |position_u - position_a|, T = sinkhorn(C)
        ot_a = (x_a + lambda sum_u T[u, a] x_u) / (1 + lambda sum_u T[u, a])
        near_a = (x_a + sum of the u most similar to a) / (1 + their count)
        x_a <- (1 - nearest_blend) ot_a + nearest_blend near_a

    Args:
        features: [F, N, D] after the projector, before pooling; not modified.
        anchors: bool [F, N] with exactly `anchor_count` true in every frame.
        mass: "plan", total mass 1 per frame (published); "token", one unit per unselected patch.

    Returns:
        Features with the anchors replaced, in the dtype given, and the plan [F, U, M] (None if
        every patch is an anchor, when there is nothing to move).
    """
    frames, patches, width = features.shape
    if anchor_count == patches:
        return features, None
    order = anchors.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    anchor_index, source_index = order[:, :anchor_count], order[:, anchor_count:]
    dtype = working_dtype(features)
    anchor_values = _take(features, anchor_index).to(dtype)
    source_values = _take(features, source_index).to(dtype)
    similarity = cosine_similarity(source_values, anchor_values)
    cost = 1 - similarity
    if spatial_weight:
        distance = patch_distances(grid).to(dtype).to(features.device)
        cost += spatial_weight * distance[source_index[:, :, None], anchor_index[:, None, :]]
    n_sources = patches - anchor_count
    solved = sinkhorn(
        cost,
        cost.new_full((frames, n_sources), 1 / n_sources),
        cost.new_full((frames, anchor_count), 1 / anchor_count),
        epsilon=epsilon,
        max_iterations=max_iterations,
        tolerance=tolerance,
        stopping=stopping,
        joint=True,
    )
    unit = float(n_sources) if mass == "token" else 1.0
    own_share, weights = _blend(solved.plan * (lambda_intra * unit), similarity, nearest_blend)
    updated = own_share[..., None] * anchor_values + weights.mT @ source_values
    index = anchor_index[..., None].expand(-1, -1, width)
    return features.scatter(1, index, updated.to(features.dtype)), solved


def _blend(moved: Tensor, similarity: Tensor, nearest_blend: float) -> tuple[Tensor, Tensor]:
    """Both averages as one set of weights: the anchor's own share [F, M] and each source's [F, U, M]."""
    moved_mass = 1 + moved.sum(1)
    own_share = (1 - nearest_blend) / moved_mass
    weights = moved * own_share[:, None, :]
    if nearest_blend:
        nearest = functional.one_hot(similarity.argmax(-1), similarity.shape[-1]).to(moved.dtype)
        nearest_share = nearest_blend / (1 + nearest.sum(1))
        own_share = own_share + nearest_share
        weights = weights + nearest * nearest_share[:, None, :]
    return own_share, weights


def _take(features: Tensor, index: Tensor) -> Tensor:
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))
