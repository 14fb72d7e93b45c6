"""Find the density peaks of token sets (DPC-KNN).

A peak is a token in a dense region that is far from every denser token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["density_peak_scores", "density_peaks"]

_ROUNDING = 64  # largest computed |a - b|^2 of equal rows, in units of eps * (|a|^2 + |b|^2)


def density_peak_scores(features: Tensor, neighbors: int) -> Tensor:
    """Return scores [B, m] of features [B, m, D]; the highest scores mark the cluster centers.

    The score is density * separation, with distances d = |x_i - x_j| / sqrt(D):
    density = exp(-mean of the `neighbors` smallest d^2), including d = 0 of a token to itself;
    separation = d to the nearest denser token; for the densest token, the largest d of all pairs.
    Of two equally dense tokens, the token with the lower index counts as denser; the published code
    decides at random (docs/methods.md).

    Raises:
        ValueError: If `neighbors` is not in 1 .. m.
    """
    count = features.shape[-2]
    if not 1 <= neighbors <= count:
        raise ValueError(f"neighbors: expected 1 to {count}, got {neighbors}")
    # 1. Density, from the distances to the nearest neighbors.
    squared = _squared_distances(features)
    density = (-squared.topk(neighbors, dim=-1, largest=False).values.mean(-1)).exp()
    # 2. Rank by density. The stable sort decides ties: exactly one token is the densest.
    order = density.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    # 3. Separation: the distance to the nearest token of a better rank.
    denser = rank[:, None, :] < rank[:, :, None]
    greatest = squared.flatten(1).amax(-1)[:, None, None]
    separation = torch.where(denser, squared, greatest).amin(-1).sqrt()
    scores: Tensor = density * separation
    return scores


def density_peaks(features: Tensor, clusters: int, neighbors: int) -> Tensor:
    """Return indices [B, clusters] of the highest-scoring tokens of features [B, m, D], best first.

    Ties go to the lower index.
    """
    scores = density_peak_scores(features, neighbors)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :clusters]


def _squared_distances(features: Tensor) -> Tensor:
    """Return |x_i - x_j|^2 / D, [B, m, m], from one matrix product; exactly 0 for equal rows."""
    values = features.to(working_dtype(features))
    # Subtracting the mean leaves the distances as they are and reduces rounding errors.
    values = values - values.mean(-2, keepdim=True)
    norms = values.square().sum(-1)
    both = norms[:, :, None] + norms[:, None, :]
    products = values @ values.mT
    # Exactly symmetric: two tokens that are nearest to each other must be equally dense.
    squared = both - (products + products.mT)
    # Rounding may leave a small distance between equal rows.
    squared = squared.masked_fill(squared < _ROUNDING * torch.finfo(values.dtype).eps * both, 0)
    return squared / values.shape[-1]
