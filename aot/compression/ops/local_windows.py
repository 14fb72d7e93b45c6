"""Keep attention sinks from filling static frames: one token from each of equal windows (EarlyTom).

A sink is a cell that receives much attention in every frame, independent of its content.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aot.compression.ops.clips import clip_bounds
from aot.types import Clip

__all__ = ["guarded", "inside_of", "most_attended", "window_of_cells"]

_BELOW, _TINY = 1 - 2**-10, 1e-30


def inside_of(segments: Sequence[Clip], device: torch.device) -> Tensor:
    """Return which frames are neither the first nor the last of their segment, bool [F]."""
    first, length = clip_bounds(segments, device)
    place = torch.arange(len(first), device=device) - first
    return (place > 0) & (place < length - 1)


def most_attended(saliency: Tensor, counts: Tensor, static: Tensor) -> Tensor:
    """Return which tokens are kept, bool [F, n]; ties go to the lower index.

    Args:
        saliency: [F, n].
        counts: int64 [F], how many tokens each frame keeps, at most n.
        static: bool [F], whether a frame keeps one token of each window instead of the highest.
    """
    rank = saliency.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return torch.where(static[:, None], _best_of_windows(rank, counts), rank < counts[:, None])


def _best_of_windows(rank: Tensor, windows: Tensor) -> Tensor:
    """Return which cells have the least `rank` [F, n] of their window, bool [F, n].

    `windows` is int64 [F]; frames without windows have no such cell.
    """
    window = window_of_cells(windows, rank.shape[1])
    best = torch.full_like(rank, rank.shape[1]).scatter_reduce(1, window, rank, "amin")
    return (rank == best.gather(1, window)) & (windows > 0)[:, None]


def guarded(saliency: Tensor, static: Tensor, windows: int) -> Tensor:
    """Return `saliency` [F, n] in which the best cell of each window comes before all others.

    In the frames that are `static`, bool [F], cells that are not the best of one of `windows`
    windows are scaled down, so that none of them reaches the least of the best cells. Their order
    stays, and so do all other values.
    """
    rank = saliency.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    best = _best_of_windows(rank, torch.full((len(rank),), windows, device=rank.device)) | ~static[:, None]
    least = saliency.masked_fill(~best, torch.inf).amin(1, keepdim=True)
    most = saliency.masked_fill(best, 0).amax(1, keepdim=True)
    return torch.where(best, saliency, saliency * (_BELOW * least / most.clamp_min(_TINY)).clamp_max(1))


def window_of_cells(windows: Tensor, cells: int) -> Tensor:
    """Return the window of each cell if frames are cut into `windows` [F] runs: int64 [F, cells].

    Windows are equally long in raster order; the first ones have one cell more if needed.
    """
    windows = windows.clamp_min(1)[:, None]
    length, longer = cells // windows, cells % windows
    cell = torch.arange(cells, device=windows.device)
    border = longer * (length + 1)
    return torch.where(cell < border, cell // (length + 1), longer + (cell - border) // length)
