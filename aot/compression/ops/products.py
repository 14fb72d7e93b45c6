"""Multiply half-precision features with float32 accuracy, without a full float32 copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aot.compression.ops.kernels import needs_grad
from aot.compression.ops.similarity import working_dtype

__all__ = [
    "centered_products",
    "centered_with_last",
    "cosine_to_anchors",
    "pair_products",
    "take_rows",
    "weighted_sums",
]

_CHUNKS = 8  # one eighth of the frames is converted at a time


def weighted_sums(weights: Tensor, features: Tensor) -> Tensor:
    """Return weights [F, P, N] @ features [F, N, D]: [F, P, D] in the working dtype."""
    weights = weights.to(working_dtype(features))
    if features.dtype == weights.dtype or not _takes_halves(weights, features):
        return _product(weights, features)
    # Split the weights into a rounded part and the rounding error, both in half precision. The sum
    # of both products is nearly as exact as one product with float32 weights.
    rounded = weights.to(features.dtype)
    lost = (weights - rounded).to(features.dtype)
    of_rounded, of_lost = _product(torch.cat([rounded, lost], 1), features).chunk(2, 1)
    return of_rounded + of_lost


def cosine_to_anchors(features: Tensor, anchor_index: Tensor) -> Tensor:
    """Return cosine similarities [F, N, M] of patches to the anchors of the same frame.

    Zero vectors have similarity 0.

    Args:
        features: [F, N, D], the features of the patches.
        anchor_index: [F, M], the patch indices of the anchors.
    """
    norms = _norms(features).clamp_min(1e-12)
    products = _product(features, take_rows(features, anchor_index).mT)
    return products.div_(norms[:, :, None]).div_(norms.gather(1, anchor_index)[:, None, :])


def centered_products(features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lengths, [B, m], products with the mean, [B, m], and products of centered pairs.

    Args:
        features: [B, m, D].
        mean: [D] in the working dtype, subtracted from both vectors of a pair [B, m, m].
    """
    if features.dtype != mean.dtype and _takes_halves(features):
        # (a - m) (b - m) = ab - am - bm + mm. The products ab of half-precision numbers are exact,
        # and their sums in float32 lose less than the rounding of the features has lost.
        pairs = pair_products(features)
        lengths = pairs.diagonal(dim1=1, dim2=2).sqrt()
        to_mean = weighted_sums(mean.expand(len(features), 1, -1), features.mT)[:, 0]
        shift = to_mean - mean @ mean / 2
        return lengths, to_mean, pairs.sub_(shift[:, :, None]).sub_(shift[:, None])
    values = features.to(mean.dtype)
    centered = values - mean
    return values.norm(dim=-1), values @ mean, centered @ centered.mT


def centered_with_last(features: Tensor, mean: Tensor, to_mean: Tensor) -> Tensor:
    """Return products of centered tokens with those of the frame before: [F - 1, n, n].

    Entry [f, i, j] is of token i of frame f + 1 and token j of frame f.

    Args:
        features: [F, n, D].
        mean: [D] in the working dtype, subtracted from both vectors of a pair.
        to_mean: [F, n], products of the features with the mean.
    """
    if features.dtype != mean.dtype and _takes_halves(features):
        shift = to_mean - mean @ mean / 2  # see `centered_products`
        pairs = _product(features[1:], features[:-1].mT)
        return pairs.sub_(shift[1:, :, None]).sub_(shift[:-1, None])
    centered = features.to(mean.dtype) - mean
    return centered[1:] @ centered[:-1].mT


def pair_products(features: Tensor) -> Tensor:
    """Return the products of all pairs of features [B, m, D], in the working dtype: [B, m, m]."""
    return _product(features, features.mT)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return [F, M, D]: entry [f, i] is the row values[f, index[f, i]] of values [F, N, D]."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right in the working dtype (float32 for half-precision input)."""
    dtype = torch.promote_types(working_dtype(left), working_dtype(right))
    if left.dtype == right.dtype == dtype:
        return left @ right
    if left.dtype == right.dtype and _takes_halves(left, right):
        return torch.bmm(left, right, out_dtype=dtype)  # no converted copy
    return torch.cat([a.to(dtype) @ b.to(dtype) for a, b in zip(_chunks(left), _chunks(right), strict=True)])


def _norms(features: Tensor) -> Tensor:
    """Return the norms [F, N] of features [F, N, D] in the working dtype."""
    dtype = working_dtype(features)
    # On devices other than CUDA, `dtype=` first makes a converted copy of the whole input.
    parts = [features] if features.is_cuda or features.dtype == dtype else _chunks(features)
    return torch.cat([torch.linalg.vector_norm(part, dim=-1, dtype=dtype) for part in parts])


def _chunks(values: Tensor) -> Sequence[Tensor]:
    return torch.split(values, max(1, len(values) // _CHUNKS))


def _takes_halves(*values: Tensor) -> bool:
    """Return whether torch can multiply half-precision `values` into float32 without conversion."""
    # The product with `out_dtype` has no backward.
    on_cuda = values[0].device.type == "cuda"
    return on_cuda and not needs_grad(*values) and "out_dtype" in (torch.bmm.__doc__ or "")
