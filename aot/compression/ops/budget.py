"""Divide a number of tokens among frames or other parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

__all__ = ["even_shares", "spread", "spread_rows"]


def spread(total: int, capacities: Sequence[int]) -> tuple[int, ...]:
    """Return integer shares of `total` in proportion to `capacities`, by largest remainder.

    No share exceeds the capacity with the same index. Ties go to the lower index.

    Raises:
        ValueError: If `total` is negative or above the sum of `capacities`.
    """
    room = sum(capacities)
    if not 0 <= total <= room:
        raise ValueError(f"total: expected 0 to {room}, got {total}")
    # Nothing to share, and no division by 0.
    if room == 0:
        return tuple(0 for _ in capacities)
    # Integers, because rounding of float quotients could make or break ties.
    shares = [total * capacity // room for capacity in capacities]
    remainders = [total * capacity % room for capacity in capacities]
    by_remainder = sorted(range(len(shares)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def spread_rows(totals: Tensor, capacities: Tensor) -> Tensor:
    """Return `spread` of totals[b] in proportion to capacities[b], without reading either.

    Args:
        totals: int64 [B], each from 0 to the sum of its capacities.
        capacities: int64 [B, m].

    Returns:
        The shares, int64 [B, m].
    """
    room = capacities.sum(1, keepdim=True).clamp_min(1)
    ideal = totals[:, None] * capacities
    shares = ideal // room
    rank = (ideal % room).sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return shares + (rank < (totals - shares.sum(1))[:, None])


def even_shares(total: int, parts: int) -> tuple[int, ...]:
    """Divide `total` into `parts` >= 1 nearly equal shares; the larger ones are evenly spaced."""
    # round(part * total / parts) in integers, with halves rounded up.
    edges = [(2 * part * total + parts) // (2 * parts) for part in range(parts + 1)]
    return tuple(stop - start for start, stop in pairwise(edges))
