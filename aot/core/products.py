"""Matrix products of features in float32, whatever they are stored in, without a float32 copy of them all."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.core.cost import working_dtype

__all__ = ["cosine_to_anchors", "take_rows", "weighted_sums"]

_CHUNKS = 8  # a converted copy is an eighth of the frames at a time


def weighted_sums(weights: Tensor, features: Tensor) -> Tensor:
    """weights [F, P, N] @ features [F, N, D]: [F, P, D] in the working dtype."""
    dtype = working_dtype(features)
    weights = weights.to(dtype)
    if features.dtype == dtype:
        return weights @ features
    return torch.cat([w @ x.to(dtype) for w, x in zip(_chunks(weights), _chunks(features), strict=True)])


def cosine_to_anchors(features: Tensor, anchor_index: Tensor) -> Tensor:
    """Cosine of every patch [F, N, D] with its frame's anchors [F, M]: [F, N, M]; zero vectors give 0."""
    dtype = working_dtype(features)
    norms = torch.linalg.vector_norm(features, dim=-1, dtype=dtype).clamp_min(1e-12)
    anchors = take_rows(features, anchor_index).to(dtype)
    chunked = zip(*map(_chunks, (features, anchors)), strict=True) if features.dtype != dtype else [(features, anchors)]
    products = torch.cat([x.to(dtype) @ a.mT for x, a in chunked])
    return products.div_(norms[:, :, None]).div_(norms.gather(1, anchor_index)[:, None, :])


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [F, M] of values [F, N, D]: [F, M, D]."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def _chunks(values: Tensor) -> tuple[Tensor, ...]:
    return torch.split(values, max(1, len(values) // _CHUNKS))
