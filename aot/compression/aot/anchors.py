"""Select the anchors of Phase I: local by shallow saliency, global by deep saliency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.ops.grid import window_ids

__all__ = ["AnchorRanking", "rank_patches"]


@dataclass(frozen=True, slots=True)
class AnchorRanking:
    """Hold the ranks of all patches; `select` takes any number of anchors without another sort.

    Attributes:
        window_rank: [F, N], each patch's rank in the window; 0 has the highest shallow saliency.
        deep_order: [F, N], the patch indices of each frame, sorted by descending deep saliency.
        window_sizes: the number of patches in each window.
    """

    window_rank: Tensor
    deep_order: Tensor
    window_sizes: tuple[int, ...]

    def split(self, count: int, local_ratio: float) -> tuple[int, int]:
        """Return the numbers of local anchors per window and of global anchors per frame.

        As published, int(count * local_ratio) of `count` anchors are local. This number is divided
        by the number of windows and rounded down; the anchors lost by rounding are not replaced. If
        the result is 0, the published code crashes; here all `count` anchors are then global.
        """
        local = int(count * local_ratio)
        per_window = local // len(self.window_sizes)
        return (per_window, count - local) if per_window else (0, count)

    def total(self, count: int, local_ratio: float) -> int:
        """Return how many anchors per frame `select` marks, for example 202 if `count` is 205."""
        # If `count` is at least N, every patch is an anchor.
        patches = self.deep_order.shape[1]
        if count >= patches:
            return patches
        per_window, n_global = self.split(count, local_ratio)
        # A window has at most as many local anchors as patches.
        n_local = sum(min(per_window, size) for size in self.window_sizes)
        return n_local + n_global

    def local(self, count: int, local_ratio: float) -> Tensor:
        """Return the local anchors, the most salient patches of each window: bool [F, N]."""
        return self.window_rank < self.split(count, local_ratio)[0]

    def select(self, count: int, local_ratio: float) -> Tensor:
        """Return all anchors as a bool mask [F, N], with the same number in every frame."""
        if count >= self.deep_order.shape[1]:
            return torch.ones_like(self.deep_order, dtype=torch.bool)
        n_global = self.split(count, local_ratio)[1]
        # Local anchors first. Global anchors are the most salient of the remaining patches.
        local = self.local(count, local_ratio)
        free = ~local.gather(1, self.deep_order)
        chosen = free & (free.cumsum(1) <= n_global)
        return local | torch.zeros_like(local).scatter(1, self.deep_order, chosen)


def rank_patches(shallow: Tensor, deep: Tensor, grid: tuple[int, int], windows_per_side: int = 3) -> AnchorRanking:
    """Rank the patches of every frame to select anchors (docs/algorithm.md, section 1).

    Of patches with equal saliency, the patch with the lower index comes first.

    Args:
        shallow: [F, N], saliency for local anchors, from a shallow layer.
        deep: [F, N], saliency for global anchors, from a deep layer.
        grid: patches per side (rows, cols), N = rows * cols.
        windows_per_side: the number of windows along each axis, at most min(rows, cols).

    Raises:
        ValueError: If `shallow` and `deep` differ in shape, or do not have N = rows * cols columns.
    """
    patches = grid[0] * grid[1]
    if shallow.shape != deep.shape or shallow.shape[-1] != patches:
        raise ValueError(
            f"saliency: expected two [F, {patches}] tensors, got {list(shallow.shape)} and {list(deep.shape)}"
        )
    windows = window_ids(grid, min(windows_per_side, *grid))
    sizes = torch.bincount(windows)
    # The first index of each window after patches are grouped by window.
    starts = (sizes.cumsum(0) - sizes)[windows.sort(stable=True).values].to(shallow.device)
    # Sort by saliency, then by window. Both sorts are stable, so windows stay sorted by saliency.
    by_saliency = shallow.argsort(dim=1, descending=True, stable=True)
    by_window = windows.to(shallow.device)[by_saliency].argsort(dim=1, stable=True)
    grouped = by_saliency.gather(1, by_window)
    rank = (torch.arange(patches, device=shallow.device) - starts).expand_as(grouped)
    return AnchorRanking(
        window_rank=torch.empty_like(grouped).scatter(1, grouped, rank),
        deep_order=deep.argsort(dim=1, descending=True, stable=True),
        window_sizes=tuple(sizes.tolist()),
    )
