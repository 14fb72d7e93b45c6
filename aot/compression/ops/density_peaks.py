"""Density peaks of token sets (DPC-KNN): which tokens are dense and far from anything denser."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.similarity import working_dtype

__all__ = ["density_peak_scores", "density_peaks"]

_ROUNDING = 64  # units in the last place of |a|^2 + |b|^2 that two equal rows may seem apart


def density_peak_scores(features: Tensor, neighbours: int) -> Tensor:
    """Scores [B, m] of features [B, m, D]; the greatest are cluster centres.

    With distances d = |x_i - x_j| / sqrt(D): density = exp(-mean of the `neighbours` least d^2, the token's own
    included), separation = distance to the nearest denser token (the greatest distance of all for the densest), and the
    score is their product. Of equally dense tokens the lower index is the denser, where the published programs draw
    lots (docs/methods.md).

    Raises:
        ValueError: neighbours is not in 1 .. m.
    """
    count = features.shape[-2]
    if not 1 <= neighbours <= count:
        raise ValueError(f"neighbours: expected 1 to {count}, got {neighbours}")
    squared = _squared_distances(features)
    density = (-squared.topk(neighbours, dim=-1, largest=False).values.mean(-1)).exp()
    order = density.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    denser = rank[:, None, :] < rank[:, :, None]
    greatest = squared.flatten(1).amax(-1)[:, None, None]
    separation = torch.where(denser, squared, greatest).amin(-1).sqrt()
    scores: Tensor = density * separation
    return scores


def density_peaks(features: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Indices [B, clusters] of the best centres of features [B, m, D], best first; of equal ones the lower index."""
    scores = density_peak_scores(features, neighbours)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :clusters]


def _squared_distances(features: Tensor) -> Tensor:
    """|x_i - x_j|^2 / D [B, m, m] by one product; exactly 0 for equal rows."""
    values = features.to(working_dtype(features))
    values = values - values.mean(-2, keepdim=True)  # distances stay, and less is lost to rounding
    norms = values.square().sum(-1)
    both = norms[:, :, None] + norms[:, None, :]
    products = values @ values.mT
    squared = both - (
        products + products.mT
    )  # symmetric to the bit: nearest neighbours of each other are equally dense
    squared = squared.masked_fill(squared < _ROUNDING * torch.finfo(values.dtype).eps * both, 0)
    return squared / values.shape[-1]
