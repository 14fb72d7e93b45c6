"""Phase I: within each frame, merge the other patches into the anchors by optimal transport.

Every new anchor and every pooled token is a weighted sum of patches of the same frame. So one
matrix per frame does both transport and pooling, without a changed copy of the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from aot.compression.aot.sinkhorn import SinkhornSettings, sinkhorn
from aot.compression.ops.grid import patch_distances
from aot.compression.ops.products import cosine_to_anchors
from aot.types import TransportPlan

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FrameTransport", "transport_within_frames"]


@dataclass(frozen=True, slots=True)
class FrameTransport:
    """Hold the weights with which patches are mixed into the new anchors of every frame.

    Attributes:
        anchor_index: [F, M], the patch indices of the anchors, ascending.
        mixing: [F, M, N], the weight of each patch in each new anchor; every row sums to 1.
        plan: the transport plan, [F, N, M]; rows of patches that are anchors are zero.
    """

    anchor_index: Tensor
    mixing: Tensor
    plan: TransportPlan

    def weights(self, pooling: Tensor) -> Tensor:
        """Return the weights of patches in pooled tokens after transport: [F, P, N].

        Args:
            pooling: [F, P, N], the weights of patches in pooled tokens without transport.
        """
        # Replace the weight of each anchor by weights of the patches in the new anchor.
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
    **settings: Unpack[SinkhornSettings],
) -> FrameTransport | None:
    """Transport the other patches u of a frame into the anchors a (docs/algorithm.md, section 2).

        C[u, a] = 1 - cos(x_u, x_a) + spatial_weight |pos_u - pos_a|      positions in [0, 1]^2
        T       = Sinkhorn(exp(-C / epsilon)), rows sum to 1/U, columns to 1/M
        ot_a    = (x_a + lambda_intra sum_u T[u, a] x_u) / (1 + lambda_intra sum_u T[u, a])
        near_a  = (x_a + sum of the x_u whose most similar anchor is a) / (1 + number of these u)
        x_a    <- (1 - nearest_blend) ot_a + nearest_blend near_a

    Args:
        features: [F, N, D], after the projector and before pooling.
        anchors: bool [F, N], with exactly `anchor_count` true in every frame.
        anchor_count: M, the number of anchors per frame; U = N - M.
        grid: patches per side (rows, cols).
        spatial_weight: the weight of the distance between positions; 0 in the paper.
        nearest_blend: the weight of near_a; 0 in the paper.
        lambda_intra: the weight of the transported patches relative to the anchor's own value.
        mass: "plan" transports mass 1 per frame (published); "token", mass 1 per patch: T times U.
        **settings: passed to `sinkhorn`.

    Returns:
        The weights of patches in the new anchors, or None if every patch is an anchor.
    """
    if anchor_count == features.shape[1]:
        return None
    # The sort is stable, so anchors come first, in raster order.
    index = anchors.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :anchor_count]
    # 1. The cost C for all patches; the rows of anchors get no mass below.
    similarity = cosine_to_anchors(features, index)
    cost = 1 - similarity
    if spatial_weight:
        cost += spatial_weight * patch_distances(grid).to(cost)[index].mT
    # 2. The plan T. `joint`, because the published stopping rule averages over all frames.
    sources = (~anchors).to(cost.dtype)
    n_sources = features.shape[1] - anchor_count
    solved = sinkhorn(
        cost,
        sources / n_sources,
        cost.new_full(index.shape, 1 / anchor_count),
        joint=True,
        **settings,
    )
    # 3. The new anchors as weights of patches: the blend of ot_a and near_a.
    unit = float(n_sources) if mass == "token" else 1.0
    columns = torch.arange(anchor_count, device=features.device)
    nearest = (similarity.argmax(-1, keepdim=True) == columns) * sources[:, :, None]
    mixing, own_share = _blend(solved.plan * (lambda_intra * unit), nearest, nearest_blend)
    return FrameTransport(index, mixing.scatter(1, index[:, None, :], own_share[:, None, :]).mT, solved)


def _blend(moved: Tensor, nearest: Tensor, nearest_blend: float) -> tuple[Tensor, Tensor]:
    """Blend ot_a and near_a of `transport_within_frames`, both given as weights of patches.

    Args:
        moved: [F, N, M], the mass that each patch gives to each anchor by transport.
        nearest: [F, N, M], 1 if the anchor is the most similar anchor of the patch, else 0.
        nearest_blend: the weight of near_a.

    Returns:
        The weight of each patch [F, N, M] and of the old anchor [F, M] in each new anchor.
    """
    # Each mean divides by 1, the mass of the anchor itself, plus the received mass.
    moved_share = (1 - nearest_blend) / (1 + moved.sum(1))
    nearest_share = nearest_blend / (1 + nearest.sum(1))
    return moved * moved_share[:, None, :] + nearest * nearest_share[:, None, :], moved_share + nearest_share
