"""Assign tokens to the nearest cluster center."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["members_of", "nearest_centers"]


def nearest_centers(features: Tensor, centers: Tensor) -> Tensor:
    """Return the nearest center of each token, int64 [B, m], as an index into `centers`.

    A center is its own nearest center. Ties go to the lower index into `centers`.

    Args:
        features: [B, m, D].
        centers: [B, K], the token indices of the centers.
    """
    values = features.to(working_dtype(features))
    rows = torch.arange(len(values), device=values.device)[:, None]
    # Direct differences: the faster matrix product loses small distances, which decide here.
    distances = torch.cdist(values, values[rows, centers], compute_mode="donot_use_mm_for_euclid_dist")
    # Without this, a center with the features of an earlier center would belong to that center.
    own = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    return distances.argmin(-1).scatter(1, centers, own)


def members_of(owners: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
    """Return membership matrices [B, K, m]: entry [b, k, j] is 1 if token j belongs to center k.

    With them, sums over the tokens of clusters are matrix products, which are bitwise reproducible.

    Args:
        owners: [B, m], from `nearest_centers`.
        clusters: K.
        dtype: the dtype of the matrix.
    """
    ranks = torch.arange(clusters, device=owners.device)
    return (owners[:, None, :] == ranks[:, None]).to(dtype)
