"""Compute cosine similarities, and choose the dtypes in which to compute and decide."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cosine_similarity", "decision_dtype", "temporal_weight", "working_dtype"]


def working_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype for computations: float64 if `values` is float64, else float32."""
    # In half precision, exp(-C / 0.1) is zero for a transport cost C above 1.7.
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def decision_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype for decisions: float64, or float32 on MPS, which has no float64."""
    # Which tokens are distinct can depend on differences of 1e-7. Few tokens are involved, so
    # float64 costs little.
    return torch.float32 if values.device.type == "mps" else torch.float64


def cosine_similarity(sources: Tensor, anchors: Tensor) -> Tensor:
    """Return cosine similarities [B, S, A] of sources [B, S, D] to anchors [B, A, D].

    Zero vectors have similarity 0.
    """
    source_norms, anchor_norms = (values.norm(dim=-1).clamp_min(1e-12) for values in (sources, anchors))
    # Scaling the products instead of the features saves a copy of the features.
    similarity: Tensor = (sources @ anchors.mT) / source_norms[:, :, None] / anchor_norms[:, None, :]
    return similarity


def temporal_weight(offset_frames: int, sigma_frames: float) -> float:
    """Return the factor, in [0, 1), of the cost in a frame `offset_frames` after its keyframe.

    The factor is 1 - exp(-j^2 / (2 sigma^2)) with j = `offset_frames` and sigma = `sigma_frames`.
    Phase II of AOT uses it (docs/algorithm.md, section 4).
    """
    return 1.0 - math.exp(-(offset_frames**2) / (2 * sigma_frames**2 + 1e-9))
