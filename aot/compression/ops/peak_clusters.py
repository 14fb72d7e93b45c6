"""Clusters around given centres: each token belongs to the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["members_of", "nearest_centres"]


def nearest_centres(features: Tensor, centres: Tensor) -> Tensor:
    """Which of the centres [B, K], indices into features [B, m, D], is nearest to each token: int64 [B, m], 0 .. K - 1.

    A centre belongs to itself; of equally near ones, the first in `centres`.
    """
    values = features.to(working_dtype(features))
    rows = torch.arange(len(values), device=values.device)[:, None]
    distances = torch.cdist(values, values[rows, centres], compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.arange(centres.shape[1], device=centres.device).expand_as(centres)
    return distances.argmin(-1).scatter(1, centres, own)


def members_of(owners: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
    """1 where a token belongs to a centre, by owners [B, m] of `nearest_centres`, else 0: [B, K, m].

    A matrix, because sums over clusters are then products, which repeat to the bit on every device.
    """
    ranks = torch.arange(clusters, device=owners.device)
    return (owners[:, None, :] == ranks[:, None]).to(dtype)
