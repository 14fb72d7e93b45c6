"""Tokens as unlike each other as possible, chosen one by one (greedy max-min)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["max_min_picks"]


def max_min_picks(distances: Tensor, count: int, *, repeats: bool = False) -> Tensor:
    """The first `count` picks int64 [B, count] from distances [B, m, m], in the order in which they are made.

    Column j holds the distances of token j to all, which need not be symmetric or positive. The first pick has the
    greatest distance to its nearest other token (the second least entry of its column); each next one the greatest
    distance to the nearest of those picked. Picks are distinct unless `repeats` lets a token be picked again. Of equal
    ones the lower index.

    Raises:
        ValueError: count is not in 0 .. m.
    """
    batch, tokens = distances.shape[:2]
    if not 0 <= count <= tokens:
        raise ValueError(f"count: expected 0 to {tokens}, got {count}")
    if count == 0:
        return torch.empty(batch, 0, dtype=torch.long, device=distances.device)
    rows = torch.arange(batch, device=distances.device)
    pick = distances.kthvalue(min(2, tokens), dim=1).values.argmax(-1)
    picks, nearest = [pick], distances[rows, pick]
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(count - 1):
        taken[rows, pick] = not repeats
        pick = nearest.masked_fill(taken, -torch.inf).argmax(-1)
        picks.append(pick)
        nearest = torch.minimum(nearest, distances[rows, pick])
    return torch.stack(picks, 1)
