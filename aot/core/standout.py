"""Tokens that stand out of their video, spread over what stands out in each frame."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aot.core.cost import working_dtype

__all__ = ["distinctiveness", "spread_gains"]


def distinctiveness(features: Tensor) -> Tensor:
    """1 - cosine with the mean of all tokens, for features [F, n, D]: [F, n] in [0, 2], 0 for zero vectors."""
    values = features.to(working_dtype(features))
    directions, mean = functional.normalize(values, dim=-1), functional.normalize(values.mean((0, 1)), dim=0)
    return (1 - directions @ mean).clamp_(0, 2) * (directions != 0).any(-1)


def spread_gains(features: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """What each frame's tokens add, taken one after the other: gains [F, most], never increasing, and cells [F, most].

    The gain of a token is its weight [F, n] times its distance to the nearest one taken before it in its frame: 1 -
    cosine, of features [F, n, D] less the mean of all tokens; 2, the greatest distance, for the first. Each time the
    token with the greatest gain is taken, of equal ones the lower index (farthest-point sampling, weighted).
    """
    values = features.to(working_dtype(features))
    directions = functional.normalize(values - values.mean((0, 1)), dim=-1)
    distances = (1 - directions @ directions.mT).clamp_(0, 2)
    frame = torch.arange(len(weight), device=weight.device)
    nearest = torch.full_like(weight, 2)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    gains, cells = [], []
    for _ in range(most):
        gain, cell = (weight * nearest).masked_fill(taken, -1).max(-1)
        gains.append(gain)
        cells.append(cell)
        taken[frame, cell] = True
        nearest = torch.minimum(nearest, distances[frame, cell])
    return torch.stack(gains, 1), torch.stack(cells, 1)
