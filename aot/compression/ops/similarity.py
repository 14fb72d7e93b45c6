"""What it costs to move a token to an anchor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cosine_similarity", "decision_dtype", "temporal_weight", "working_dtype"]


def working_dtype(values: Tensor) -> torch.dtype:
    """float64 for float64 input, else float32: exp(-C / 0.1) is zero in half precision beyond C = 1.7."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def decision_dtype(values: Tensor) -> torch.dtype:
    """float64 wherever the device has it: which tokens are distinct can hang on differences of 1e-7, and
    the kept tokens are few enough for it to cost nothing.
    """
    return torch.float32 if values.device.type == "mps" else torch.float64


def cosine_similarity(sources: Tensor, anchors: Tensor) -> Tensor:
    """Cosine of every source [B, S, D] with every anchor [B, A, D]: [B, S, A]; zero vectors give 0."""
    source_norms, anchor_norms = (values.norm(dim=-1).clamp_min(1e-12) for values in (sources, anchors))
    # Scaling the products rather than the features spares a copy of the features.
    similarity: Tensor = (sources @ anchors.mT) / source_norms[:, :, None] / anchor_norms[:, None, :]
    return similarity


def temporal_weight(offset_frames: int, sigma_frames: float) -> float:
    """1 - exp(-j^2 / (2 sigma^2)): how much dissimilarity counts j frames from the keyframe (Phase II)."""
    return 1.0 - math.exp(-(offset_frames**2) / (2 * sigma_frames**2 + 1e-9))
