"""Rotary position embedding of a video's tokens: features that also know when and where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.core.cost import working_dtype

__all__ = ["rotated_by_place"]


def rotated_by_place(features: Tensor, grid: tuple[int, int], theta: float) -> Tensor:
    """Features [F, n, D] of a grid (n = rows * cols) with their channel pairs (0, 1), (2, 3), ... turned by frame, row
    and column: [F, n, D] in the working dtype.

    The first third of the D // 2 pairs turns with the frame number, the second with the row, the last with the column
    (the first ones have one pair more where thirds are uneven); pair j of an axis' p turns by theta^(-j / p) radians
    a step. Lengths are kept, and so are the cosines of tokens at the same place.
    """
    frames, _, width = features.shape
    # A copy of its own even where the dtype is right already: it is turned in place.
    video = features.to(working_dtype(features), copy=True).reshape(frames, *grid, width)
    first = 0
    for axis, pairs in enumerate(_thirds(width // 2)):
        places = video.shape[axis]
        angles = _angles(places, pairs, theta).to(video.device, video.dtype)
        angles = angles.view(*(places if other == axis else 1 for other in range(3)), pairs)
        section = video[..., 2 * first : 2 * (first + pairs)]
        even, odd = section[..., ::2].clone(), section[..., 1::2].clone()
        section[..., ::2] = even * angles.cos() - odd * angles.sin()
        section[..., 1::2] = even * angles.sin() + odd * angles.cos()
        first += pairs
    return video.reshape(features.shape)


def _angles(places: int, pairs: int, theta: float) -> Tensor:
    """float64 [places, pairs]."""
    frequencies = theta ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    return torch.arange(places, dtype=torch.float64)[:, None] * frequencies


def _thirds(count: int) -> tuple[int, int, int]:
    least, more = divmod(count, 3)
    return least + (more > 0), least + (more > 1), least
