"""Decide how many tokens each frame keeps, and select the tokens with the lowest scores."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.padding import true_indices
from aot.compression.ops.similarity import decision_dtype

__all__ = ["bounded_shares", "least_per_frame"]

_PARTS, _ROUNDS = 256, 8  # 256^8 = 2^64, beyond the precision of float64


def bounded_shares(total: int, weights: Tensor, least: int, most: int) -> Tensor:
    """Return integer shares of `total` in proportion to `weights`, each in least .. most.

    If a bound limits a share, the other shares take the difference in proportion to their weights.
    Shares are rounded down; the tokens left over go to the largest remainders, one each. Ties go to
    the lower index.

    Args:
        total: the sum of the shares.
        weights: [m], positive.
        least: the lower bound of each share.
        most: the upper bound of each share.

    Returns:
        The shares, int64 [m], on the device of `weights`.

    Raises:
        ValueError: If no shares within the bounds sum to `total`.
    """
    count = len(weights)
    if not count * least <= total <= count * most:
        raise ValueError(f"total: expected {count * least} to {count * most}, got {total}")
    # 1. Find the least factor at which the clamped shares sum to `total`: divide an interval into
    # 256 parts, and go on with the part in which the sum reaches `total`.
    weight = weights.to(decision_dtype(weights))
    part = torch.arange(1, _PARTS + 1, dtype=weight.dtype, device=weight.device) / _PARTS
    low, high = torch.zeros_like(part[:1]), most / weight.amin(0, keepdim=True)
    for _ in range(_ROUNDS):
        factors = low + (high - low) * part
        reached = (weight * factors[:, None]).clamp(least, most).sum(1) >= total
        reached[-1:].fill_(True)  # in spite of rounding; `reached[-1] = True` would wait
        # The edges of the first part that reaches it. A single number as an index would be read.
        best = reached.to(torch.uint8).argmax()[None]
        low, high = torch.cat([low, factors]).index_select(0, best), factors.index_select(0, best)
    # 2. Round down, and give the missing tokens to the largest remainders.
    ideal = (weight * high).clamp(least, most)
    shares = ideal.floor().to(torch.int64)
    rank = (ideal - shares).sort(descending=True, stable=True).indices.argsort()
    return shares + (rank < total - shares.sum())


def least_per_frame(scores: Tensor, counts: Tensor, total: int) -> Tensor:
    """Return the indices of the lowest-scoring tokens, counts[f] of them from each frame f.

    Ties go to the lower index.

    Args:
        scores: [F, n].
        counts: [F], the number of tokens to select from each frame, in 0 .. n.
        total: K, the sum of `counts`.

    Returns:
        Indices [K] into all F * n tokens, sorted by frame and then by ascending score.
    """
    frames, per_frame = scores.shape
    # Sort every frame, then take the first counts[f] of row f; a mask does this without a loop.
    order = scores.sort(dim=-1, stable=True).indices
    index = order + per_frame * torch.arange(frames, device=scores.device)[:, None]
    chosen = torch.arange(per_frame, device=scores.device) < counts[:, None]
    return index.flatten()[true_indices(chosen, total)]
