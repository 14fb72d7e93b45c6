"""Find the density peaks of token sets (DPC-KNN).

A peak is a token in a dense region that is far from every denser token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.padding import unless_full
from aot.compression.ops.similarity import working_dtype

__all__ = ["density_peak_scores", "density_peaks"]

_ROUNDING = 64  # largest computed |a - b|^2 of equal rows, in units of eps * (|a|^2 + |b|^2)


def density_peak_scores(
    features: Tensor, neighbors: int, valid: Tensor | None = None, most_neighbors: Tensor | None = None
) -> Tensor:
    """Return scores [B, m] of features [B, m, D]; the highest scores mark the cluster centers.

    The score is density * separation, with distances d = |x_i - x_j| / sqrt(D):
    density = exp(-mean of the `neighbors` smallest d^2), including d = 0 of a token to itself;
    separation = d to the nearest denser token; for the densest token, the largest d of all pairs.
    Of two equally dense tokens, the token with the lower index counts as denser; the published code
    decides at random (docs/methods.md).

    Args:
        features: [B, m, D].
        neighbors: the number of nearest tokens, in 1 .. m.
        valid: bool [B, m], false for padding, which has the score -inf; None without padding.
        most_neighbors: [B], a lower number of nearest tokens for each set, if `neighbors` is above
            it; None without such limits. No limit exceeds the number of valid tokens.

    Raises:
        ValueError: If `neighbors` is not in 1 .. m.
    """
    count = features.shape[-2]
    if not 1 <= neighbors <= count:
        raise ValueError(f"neighbors: expected 1 to {count}, got {neighbors}")
    # 1. Density, from the distances to the nearest neighbors. Masks take time on the CPU.
    valid = unless_full(valid)
    squared = _squared_distances(features, valid)
    nearest = squared.topk(neighbors, dim=-1, largest=False).values
    density = (-(nearest.mean(-1) if most_neighbors is None else _mean_of_first(nearest, most_neighbors))).exp()
    # 2. Rank by density. The stable sort decides ties: exactly one token is the densest.
    order = density.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    # 3. Separation: the distance to the nearest token of a better rank.
    denser = rank[:, None, :] < rank[:, :, None]
    pairs = squared if valid is None else squared.where(valid[:, None] & valid[:, :, None], 0)
    greatest = pairs.flatten(1).amax(-1)[:, None, None]
    scores: Tensor = density * torch.where(denser, squared, greatest).amin(-1).sqrt()
    return scores if valid is None else scores.masked_fill(~valid, -torch.inf)


def density_peaks(features: Tensor, clusters: int, neighbors: int) -> Tensor:
    """Return indices [B, clusters] of the highest-scoring tokens of features [B, m, D], best first.

    Ties go to the lower index.
    """
    scores = density_peak_scores(features, neighbors)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :clusters]


def _mean_of_first(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the first counts[b] entries, at most all, of values [B, m, k]: [B, m]."""
    counts = counts[:, None].clamp(1, values.shape[-1])
    is_counted = torch.arange(values.shape[-1], device=values.device) < counts[..., None]
    return torch.where(is_counted, values, 0).sum(-1) / counts


def _squared_distances(features: Tensor, valid: Tensor | None) -> Tensor:
    """Return |x_i - x_j|^2 / D, [B, m, m], from one matrix product; exactly 0 for equal rows.

    Distances to rows that are not `valid` are infinite.
    """
    values = features.to(working_dtype(features))
    # Subtracting the mean leaves the distances as they are and reduces rounding errors.
    values = values - _mean(values, valid)
    norms = values.square().sum(-1)
    both = norms[:, :, None] + norms[:, None, :]
    products = values @ values.mT
    # Exactly symmetric: two tokens that are nearest to each other must be equally dense.
    squared = both - (products + products.mT)
    # Rounding may leave a small distance between equal rows.
    squared = squared.masked_fill(squared < _ROUNDING * torch.finfo(values.dtype).eps * both, 0) / values.shape[-1]
    return squared if valid is None else squared.masked_fill(~valid[:, None], torch.inf)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of the `valid` rows of values [B, m, D]: [B, 1, D]."""
    if valid is None:
        return values.mean(-2, keepdim=True)
    weights = valid.to(values.dtype)
    return (weights / weights.sum(-1, keepdim=True).clamp_min(1))[:, None] @ values
