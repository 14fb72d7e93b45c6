"""Run a vision tower in which similar frames are merged after chosen blocks; nothing is patched.

All frames of a chunk pass a block before any passes the next one, since frames are merged with
those around them. Each block is called with a part of the frames at a time, to save memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aot.compression.in_tower.earlytom import FrameMerger
from aot.models.vision.reusing_tower import with_blocks
from aot.runtime.devices import input_device

__all__ = ["FrameStages", "left_of", "with_frame_merging"]


@dataclass(frozen=True, slots=True)
class FrameStages:
    """Describe how a chunk passes the tower.

    Attributes:
        merger: merges the frames.
        together: the number of frames that pass a block at a time.
    """

    merger: FrameMerger
    together: int


def with_frame_merging(module: Any, path: str, stages: FrameStages) -> Any:
    """Return a copy of `module` whose blocks at `path` are called and followed by merges."""
    return with_blocks(module, path, lambda number, block: _MergingBlock(number, block, stages))


def left_of(batch: object, block: int, values: Tensor) -> Tensor:
    """Return `values` [T, ...] of the frames that `block` has read, for the frames that are left.

    If `batch` is no `FrameStages`, these are the same.
    """
    return batch.merger.mixed(values, block) if isinstance(batch, FrameStages) else values


class _MergingBlock(nn.Module):
    """A block of the tower; its input [F, N, D] or [F * N, D] has the frames that are left."""

    def __init__(self, number: int, block: Any, stages: FrameStages) -> None:
        super().__init__()
        self._number, self._block, self._stages = number, block, stages
        self._device = input_device(block)

    def forward(self, states: Tensor, **context: Any) -> Tensor:
        merger = self._stages.merger
        by_frame = states.to(self._device).view(merger.count, -1, states.shape[-1])
        parts = torch.split(by_frame, self._stages.together)
        is_flat = states.ndim == 2
        found = torch.cat([self._called(part, context, is_flat=is_flat) for part in parts])
        left = merger.after(self._number, found)
        return left.flatten(0, 1) if is_flat else left

    def _called(self, part: Tensor, context: Mapping[str, Any], *, is_flat: bool) -> Tensor:
        """Return the output of the block for some frames, [f, N, D]."""
        states = part.flatten(0, 1) if is_flat else part
        found = self._block(states, **(_of_first(context, *part.shape[:2]) if is_flat else context))
        # Some versions of transformers wrap states in a tuple.
        return (found if isinstance(found, Tensor) else found[0]).view_as(part)


def _of_first(context: Mapping[str, Any], frames: int, patches: int) -> dict[str, Any]:
    """Return the arguments of a block of Qwen3-VL for as many frames."""
    # All frames have the same positions.
    rotations = tuple(values[: frames * patches] for values in context["position_embeddings"])
    return {**context, "cu_seqlens": context["cu_seqlens"][: frames + 1], "position_embeddings": rotations}
