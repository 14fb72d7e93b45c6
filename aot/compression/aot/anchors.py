"""Phase I selection: local anchors from windows of shallow saliency, global ones from deep saliency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.ops.grid import window_ids

__all__ = ["AnchorRanking", "rank_patches"]


@dataclass(frozen=True, slots=True)
class AnchorRanking:
    """Patches ranked once, so that any number of anchors can then be selected without sorting again.

    window_rank: [F, N], place of a patch within its window by shallow saliency (0 = most salient).
    deep_order: [F, N], patches by falling deep saliency. window_sizes: patches in each window.
    """

    window_rank: Tensor
    deep_order: Tensor
    window_sizes: tuple[int, ...]

    def split(self, count: int, local_ratio: float) -> tuple[int, int]:
        """(local anchors per window, global anchors) for `count` anchors asked for.

        As published: the local share is int(count * local_ratio), each window gives the floor of its
        part, and the rounding loss is not given back. A local share too small for one anchor per
        window crashes the published code; here all anchors are then global.
        """
        local = int(count * local_ratio)
        per_window = local // len(self.window_sizes)
        return (per_window, count - local) if per_window else (0, count)

    def total(self, count: int, local_ratio: float) -> int:
        """How many anchors `select` yields per frame, e.g. 202 for count 205."""
        patches = self.deep_order.shape[1]
        if count >= patches:
            return patches
        per_window, n_global = self.split(count, local_ratio)
        n_local = sum(min(per_window, size) for size in self.window_sizes)
        return n_local + n_global

    def local(self, count: int, local_ratio: float) -> Tensor:
        """Those of the anchors `select` yields that are chosen within their windows: bool [F, N]."""
        return self.window_rank < self.split(count, local_ratio)[0]

    def select(self, count: int, local_ratio: float) -> Tensor:
        """Anchors as a bool mask [F, N] with the same number in every frame."""
        if count >= self.deep_order.shape[1]:
            return torch.ones_like(self.deep_order, dtype=torch.bool)
        n_global = self.split(count, local_ratio)[1]
        local = self.local(count, local_ratio)
        free = ~local.gather(1, self.deep_order)
        chosen = free & (free.cumsum(1) <= n_global)
        return local | torch.zeros_like(local).scatter(1, self.deep_order, chosen)


def rank_patches(shallow: Tensor, deep: Tensor, grid: tuple[int, int], windows_per_side: int = 3) -> AnchorRanking:
    """Rank every frame's patches for anchor selection (docs/algorithm.md, section 1); ties: lower index first.

    Args:
        shallow, deep: [F, N] saliency of the local and the global layer.
        grid: patches per side (rows, cols), N = rows * cols.
        windows_per_side: windows along each axis; more than the grid has rows or columns is cut to that.

    Raises:
        ValueError: the shapes disagree.
    """
    patches = grid[0] * grid[1]
    if shallow.shape != deep.shape or shallow.shape[-1] != patches:
        raise ValueError(
            f"saliency: expected two [F, {patches}] tensors, got {list(shallow.shape)} and {list(deep.shape)}"
        )
    windows = window_ids(grid, min(windows_per_side, *grid))
    sizes = torch.bincount(windows)
    starts = (sizes.cumsum(0) - sizes)[windows.sort(stable=True).values].to(shallow.device)
    by_saliency = shallow.argsort(dim=1, descending=True, stable=True)
    by_window = windows.to(shallow.device)[by_saliency].argsort(dim=1, stable=True)
    grouped = by_saliency.gather(1, by_window)
    place = (torch.arange(patches, device=shallow.device) - starts).expand_as(grouped)
    return AnchorRanking(
        window_rank=torch.empty_like(grouped).scatter(1, grouped, place),
        deep_order=deep.argsort(dim=1, descending=True, stable=True),
        window_sizes=tuple(sizes.tolist()),
    )
