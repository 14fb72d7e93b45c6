"""Matrix products of features in float32, whatever they are stored in, without a float32 copy of them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["cosine_to_anchors", "take_rows", "weighted_sums"]

_CHUNKS = 8  # a converted copy is an eighth of the frames at a time


def weighted_sums(weights: Tensor, features: Tensor) -> Tensor:
    """weights [F, P, N] @ features [F, N, D]: [F, P, D] in the working dtype."""
    weights = weights.to(working_dtype(features))
    if features.dtype == weights.dtype or not _takes_halves(features.device):
        return _product(weights, features)
    # What rounding to the features' dtype takes from the weights is a second set of weights.
    rounded = weights.to(features.dtype)
    lost = (weights - rounded).to(features.dtype)
    of_rounded, of_lost = _product(torch.cat([rounded, lost], 1), features).chunk(2, 1)
    return of_rounded + of_lost


def cosine_to_anchors(features: Tensor, anchor_index: Tensor) -> Tensor:
    """Cosine of every patch [F, N, D] with its frame's anchors [F, M]: [F, N, M]; zero vectors give 0."""
    norms = _norms(features).clamp_min(1e-12)
    products = _product(features, take_rows(features, anchor_index).mT)
    return products.div_(norms[:, :, None]).div_(norms.gather(1, anchor_index)[:, None, :])


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [F, M] of values [F, N, D]: [F, M, D]."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, summed up in the working dtype: that of both, or float32 where one is in half precision."""
    dtype = torch.promote_types(working_dtype(left), working_dtype(right))
    if left.dtype == right.dtype == dtype:
        return left @ right
    if left.dtype == right.dtype and _takes_halves(left.device):
        return torch.bmm(left, right, out_dtype=dtype)
    return torch.cat([a.to(dtype) @ b.to(dtype) for a, b in zip(_chunks(left), _chunks(right), strict=True)])


def _norms(features: Tensor) -> Tensor:
    """Lengths [F, N] of features [F, N, D] in the working dtype."""
    dtype = working_dtype(features)
    # Off CUDA, `dtype=` converts all of its input before the first sum.
    parts = [features] if features.is_cuda or features.dtype == dtype else _chunks(features)
    return torch.cat([torch.linalg.vector_norm(part, dim=-1, dtype=dtype) for part in parts])


def _chunks(values: Tensor) -> Sequence[Tensor]:
    return torch.split(values, max(1, len(values) // _CHUNKS))


def _takes_halves(device: torch.device) -> bool:
    """Whether torch multiplies half-precision matrices into float32 there (CUDA, from torch 2.8 or so)."""
    return device.type == "cuda" and "out_dtype" in (torch.bmm.__doc__ or "")
