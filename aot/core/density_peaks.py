"""Density peaks of token sets (DPC-KNN): which tokens are dense and far from anything denser."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.core.cost import working_dtype

__all__ = ["density_peak_scores", "density_peaks"]

_JITTER = 1e-6


def density_peak_scores(features: Tensor, neighbours: int) -> Tensor:
    """Scores [B, m] of features [B, m, D]; the greatest are cluster centres.

    With distances d = |x_i - x_j| / sqrt(D): density = exp(-mean of the `neighbours` least d^2, the token's own
    included), separation = distance to the nearest denser token (the greatest distance of all for the densest), and the
    score is their product. Equal densities are told apart by index, the lower being the denser, where the published
    programs draw lots (docs/methods.md).

    Raises:
        ValueError: neighbours is not in 1 .. m.
    """
    count, width = features.shape[-2:]
    if not 1 <= neighbours <= count:
        raise ValueError(f"neighbours: expected 1 to {count}, got {neighbours}")
    values = features.to(working_dtype(features))
    distances = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist") / width**0.5
    nearest = distances.topk(neighbours, dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    density = density + _JITTER * torch.linspace(1, 0, count, dtype=values.dtype, device=values.device)
    denser = density[:, None, :] > density[:, :, None]
    greatest = distances.flatten(1).amax(-1)[:, None, None]
    scores: Tensor = density * torch.where(denser, distances, greatest).amin(-1)
    return scores


def density_peaks(features: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Indices [B, clusters] of the best centres of features [B, m, D], best first; of equal ones the lower index."""
    scores = density_peak_scores(features, neighbours)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :clusters]
