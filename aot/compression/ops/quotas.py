"""Decide how many tokens each frame keeps, and select the tokens with the lowest scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bounded_shares", "least_per_frame"]

_HALVINGS = 64


def bounded_shares(total: int, weights: Sequence[float], least: int, most: int) -> tuple[int, ...]:
    """Return integer shares of `total` in proportion to `weights`, each in least .. most.

    If a bound limits a share, the other shares take the difference in proportion to their weights.
    Shares are rounded down; the tokens left over go to the largest remainders, one each. Ties go to
    the lower index.

    Args:
        total: the sum of the shares.
        weights: positive weights, one per share.
        least: the lower bound of each share.
        most: the upper bound of each share.

    Raises:
        ValueError: If no shares within the bounds sum to `total`.
    """
    count = len(weights)
    if not count * least <= total <= count * most:
        raise ValueError(f"total: expected {count * least} to {count * most}, got {total}")
    # 1. Find the factor at which the clamped shares sum to `total`, by bisection.
    weight = torch.tensor(weights, dtype=torch.float64)
    low, high = 0.0, most / float(weight.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = bool((weight * middle).clamp(least, most).sum() >= total)
        low, high = (low, middle) if reached else (middle, high)
    # 2. Round down, and give the missing tokens to the largest remainders.
    ideal = (weight * high).clamp(least, most)
    shares = ideal.floor().to(torch.int64)
    by_remainder = (ideal - shares).sort(descending=True, stable=True).indices
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return tuple(shares.tolist())


def least_per_frame(scores: Tensor, counts: Tensor) -> Tensor:
    """Return the indices of the lowest-scoring tokens, counts[f] of them from each frame f.

    Ties go to the lower index.

    Args:
        scores: [F, n].
        counts: [F], the number of tokens to select from each frame, in 0 .. n.

    Returns:
        Indices [K] into all F * n tokens, sorted by frame and then by ascending score.
    """
    frames, per_frame = scores.shape
    # Sort every frame, then take the first counts[f] of row f; a mask does this without a loop.
    order = scores.sort(dim=-1, stable=True).indices
    index = order + per_frame * torch.arange(frames, device=scores.device)[:, None]
    return index[torch.arange(per_frame, device=scores.device) < counts.to(scores.device)[:, None]]
