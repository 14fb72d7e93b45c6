"""Rotary position embedding of a video's tokens: features that also know when and where they are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotated_by_place"]


def rotated_by_place(features: Tensor, grid: tuple[int, int], theta: float) -> Tensor:
    """Return features [F, n, D] of a grid (n = rows * cols) rotated by frame, row and column, in their dtype.

    Channels fall into three runs, as SimpleCluster has them: D // 3 + D % 3 for the frame number, then D // 3 for the
    row and D // 3 for the column. Pairs (0, 1), (2, 3), ... of a run turn; an odd last channel stays. Pair j of an
    axis' p turns by theta^(-j / p) radians a step. Lengths are kept, and so are the cosines of tokens in one cell.
    """
    frames, _, width = features.shape
    video = features.clone().view(frames, *grid, width)  # rotated in place
    first = 0
    for axis, channels in enumerate((width // 3 + width % 3, width // 3, width // 3)):
        steps, pairs = video.shape[axis], channels // 2
        shape = [steps if other == axis else 1 for other in range(3)]
        cos, sin = (each.to(video).view(*shape, pairs) for each in _turns(steps, pairs, theta))
        section = video[..., first : first + 2 * pairs]
        even, odd = section[..., ::2].clone(), section[..., 1::2].clone()
        section[..., ::2] = even * cos - odd * sin
        section[..., 1::2] = even * sin + odd * cos
        first += channels
    return video.view(features.shape)


def _turns(steps: int, pairs: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, float64 [steps, pairs], made on the CPU so that every device has the same."""
    frequencies = theta ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    angles = torch.arange(steps, dtype=torch.float64)[:, None] * frequencies
    return angles.cos(), angles.sin()
