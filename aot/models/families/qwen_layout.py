"""Compute on the host what Qwen's vision tower would otherwise read back from the device.

The tower derives the lengths of its attention windows and the positions of its patches from the
size of the video. With that size on the device, each block waits to read the lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aot.compression.ops.uploads import uploaded

__all__ = ["tower_layout"]


def tower_layout(tower: Any, sides: tuple[int, int, int], device: torch.device) -> dict[str, Tensor]:
    """Return the tower's keyword arguments for a video of T x H x W patches, `sides`."""
    grid = torch.tensor([sides])
    try:
        on_host, to_upload = _computed(tower, grid)
    except (ImportError, AttributeError):  # before transformers 5.24 the tower computes them itself
        return {"grid_thw": grid.to(device)}
    if "flash" in str(tower.config._attn_implementation):  # its kernels read the lengths on the device
        on_host, to_upload = {}, {**on_host, **to_upload}
    return {"grid_thw": grid, **on_host, **{name: uploaded(values, device) for name, values in to_upload.items()}}


def _computed(tower: Any, grid: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the lengths, and positions and orders of patches, as transformers computes them."""
    from transformers import vision_utils as of

    merge = tower.spatial_merge_size
    lengths = {"cu_seqlens": of.get_vision_cu_seqlens(grid)}
    orders = {"position_ids": of.get_vision_position_ids(grid, merge)}
    if hasattr(tower, "window_size"):
        window = of.get_vision_window_index(
            grid, spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size
        )
        orders["window_index"], lengths["cu_window_seqlens"] = window
    else:
        orders["interp_indices"], orders["interp_weights"] = of.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
    return lengths, orders
