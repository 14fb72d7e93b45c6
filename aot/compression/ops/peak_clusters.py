"""Assign tokens to the nearest of given cluster centers."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["members_of", "nearest_centers"]


def nearest_centers(features: Tensor, centers: Tensor) -> Tensor:
    """Return the nearest center of each token, int64 [B, m], as a rank in 0 .. K - 1.

    A center belongs to itself. Ties go to the first in `centers`.

    Args:
        features: [B, m, D].
        centers: [B, K], token indices of the centers.
    """
    values = features.to(working_dtype(features))
    rows = torch.arange(len(values), device=values.device)[:, None]
    # Direct differences: the faster matrix product loses the small distances that decide.
    distances = torch.cdist(values, values[rows, centers], compute_mode="donot_use_mm_for_euclid_dist")
    # A center that equals an earlier one would otherwise lose its own token to it.
    own = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    return distances.argmin(-1).scatter(1, centers, own)


def members_of(owners: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
    """Return a membership matrix [B, K, m]: 1 if token j belongs to center k, else 0.

    Sums over clusters become matrix products, which repeat to the bit on every device.

    Args:
        owners: [B, m], from `nearest_centers`.
        clusters: K.
        dtype: of the matrix.
    """
    ranks = torch.arange(clusters, device=owners.device)
    return (owners[:, None, :] == ranks[:, None]).to(dtype)
