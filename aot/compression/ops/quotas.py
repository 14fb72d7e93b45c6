"""How many tokens each frame keeps, and which: the least of its scores, in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bounded_shares", "least_per_frame"]

_HALVINGS = 64


def bounded_shares(total: int, weights: Sequence[float], least: int, most: int) -> tuple[int, ...]:
    """Share `total` in proportion to `weights` (positive), each share in least .. most, by largest remainder.

    What a bound takes from one share, or gives it, the others make up for in proportion. Of equal remainders the lower
    index comes first.

    Raises:
        ValueError: that many shares cannot sum to `total`.
    """
    count = len(weights)
    if not count * least <= total <= count * most:
        raise ValueError(f"total: expected {count * least} to {count * most}, got {total}")
    weight = torch.tensor(weights, dtype=torch.float64)
    low, high = 0.0, most / float(weight.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = bool((weight * middle).clamp(least, most).sum() >= total)
        low, high = (low, middle) if reached else (middle, high)
    ideal = (weight * high).clamp(least, most)
    shares = ideal.floor().to(torch.int64)
    by_remainder = (ideal - shares).sort(descending=True, stable=True).indices
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return tuple(shares.tolist())


def least_per_frame(scores: Tensor, counts: Tensor) -> Tensor:
    """The counts[f] tokens of least score of every frame f, of equal ones the lower index.

    scores: [F, n]. counts: [F], 0 .. n. Returns indices [K] into all F * n tokens, frame after frame, and within a
    frame by ascending score.
    """
    frames, per_frame = scores.shape
    order = scores.sort(dim=-1, stable=True).indices
    index = order + per_frame * torch.arange(frames, device=scores.device)[:, None]
    return index[torch.arange(per_frame, device=scores.device) < counts.to(scores.device)[:, None]]
