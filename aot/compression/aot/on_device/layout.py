"""Compute tables for the kernels on the host, and upload all of them in one copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from aot.compression.ops.grid import pooled_grid, pooling_weights, window_ids
from aot.compression.ops.uploads import uploaded
from aot.types import Clip, Pooling

__all__ = ["QueuedLayout"]

_ALIGNED = 4  # elements in 16 bytes


@dataclass(frozen=True, slots=True)
class QueuedLayout:
    """Hold the sizes of a video on the host, and tables for the kernels on the device.

    Attributes:
        frames: F, the number of frames.
        clips: consecutive runs of frames that cover all F.
        grid: patches per side (rows, cols).
        pooled: tokens per side (rows, cols).
        taps: the largest number of patch rows or columns that contribute to a token.
        tables: int32 or float32 views of one buffer, by name.
            window [N]: the window of each patch.
            per_window, globals, total [N + 1]: entry m has the number of local anchors per window,
            of global anchors and of all anchors per frame that `AnchorRanking` gives for count m.
            row_tap [token rows, taps]: the patch rows in each token row; col_tap: same for cols.
            row_part, col_part: the weights of `row_tap`, `col_tap`; a patch's weight in a token is
            the product of its row's and its column's weight.
            row_pool [token rows, patch rows], col_pool: the same weights as full matrices.
            clip, keyframe, copies [F]: the clip index of a frame, 1 for keyframes and 0 for others,
            and how often the clip emits its keyframe.
            several [F]: 1 if the clip of the frame has more than one frame, else 0.
            first, length [C]: the first frame and the number of frames of each clip.
    """

    frames: int
    clips: tuple[Clip, ...]
    grid: tuple[int, int]
    pooled: tuple[int, int]
    taps: int
    tables: Mapping[str, Tensor]

    @property
    def patches(self) -> int:
        """Return N, the number of patches of a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def cells(self) -> int:
        """Return n, the number of pooled tokens of a frame before compression."""
        return self.pooled[0] * self.pooled[1]

    @classmethod
    def build(
        cls,
        grid: tuple[int, int],
        pool: Pooling,
        windows_per_side: int,
        local_ratio: float,
        clips: Sequence[Clip],
        copies: Sequence[int],
        device: torch.device,
    ) -> QueuedLayout:
        """Return the layout of one video; all tables are uploaded in one copy."""
        # The tables of the grid are cached, the tables of clips are not.
        of_grid = _of_grid(grid, pool, windows_per_side, local_ratio)
        tables = {**of_grid, **_of_clips(clips, copies)}
        return cls(
            clips[-1].stop, tuple(clips), grid, pooled_grid(grid, pool), of_grid["row_tap"].shape[1],
            _sent_together(tables, device),
        )  # fmt: skip


def _sent_together(tables: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy all tables in one transfer, aligned to 16 bytes: else Triton would recompile kernels."""
    # All values have 32 bits, so one int32 buffer can hold floats too.
    spans = [-(-values.numel() // _ALIGNED) * _ALIGNED for values in tables.values()]
    whole = torch.zeros(sum(spans), dtype=torch.int32)
    for (_, values), part in zip(tables.items(), torch.split(whole, spans), strict=True):
        part[: values.numel()] = values.flatten().view(torch.int32)
    parts = torch.split(uploaded(whole, device), spans)
    return {
        name: part[: values.numel()].view(values.dtype).view(values.shape)
        for (name, values), part in zip(tables.items(), parts, strict=True)
    }


def _of_clips(clips: Sequence[Clip], copies: Sequence[int]) -> dict[str, Tensor]:
    lengths = torch.tensor([len(clip) for clip in clips], dtype=torch.int32)
    first = torch.tensor([clip.first for clip in clips], dtype=torch.int32)
    # The first frame of each clip is its keyframe.
    keyframe = torch.zeros(clips[-1].stop, dtype=torch.int32).index_fill_(0, first.long(), 1)
    by_frame = {
        "clip": torch.arange(len(clips), dtype=torch.int32),
        "copies": torch.tensor(copies, dtype=torch.int32),
        "several": (lengths > 1).to(torch.int32),
    }
    # Repeat the value of each clip for all frames of the clip.
    spread = {name: values.repeat_interleave(lengths, output_size=clips[-1].stop) for name, values in by_frame.items()}
    return {**spread, "keyframe": keyframe, "first": first, "length": lengths}


@cache
def _of_grid(grid: tuple[int, int], pool: Pooling, windows_per_side: int, local_ratio: float) -> Mapping[str, Tensor]:
    # Pooling is separable: weights along rows times weights along columns.
    window = window_ids(grid, min(windows_per_side, *grid))
    row_pool, col_pool = (_axis_weights(side, pool) for side in grid)
    taps = int(max((weights > 0).sum(1).max() for weights in (row_pool, col_pool)))
    row_tap, row_part = _taps(row_pool, taps)
    col_tap, col_part = _taps(col_pool, taps)
    return {
        "window": window.to(torch.int32),
        **_anchor_counts(torch.bincount(window), grid[0] * grid[1], local_ratio),
        **{"row_tap": row_tap, "col_tap": col_tap, "row_part": row_part, "col_part": col_part},
        **{"row_pool": row_pool.float(), "col_pool": col_pool.float()},
    }


def _anchor_counts(window_sizes: Tensor, patches: int, local_ratio: float) -> dict[str, Tensor]:
    """Return `AnchorRanking.split` and `AnchorRanking.total` for every count from 0 to N."""
    # In float64, because `AnchorRanking.split` rounds Python floats down.
    asked = torch.arange(patches + 1)
    local = (asked.double() * local_ratio).long()
    per_window = local // len(window_sizes)
    others = torch.where(per_window > 0, asked - local, asked)
    total = torch.minimum(per_window[:, None], window_sizes).sum(1) + others
    # With N anchors, every patch is an anchor.
    per_window[-1], total[-1] = patches, patches
    counts = {"per_window": per_window, "globals": others, "total": total}
    return {name: values.to(torch.int32) for name, values in counts.items()}


def _axis_weights(side: int, pool: Pooling) -> Tensor:
    """Return the pooling weights along one axis, float64 [tokens, side]."""
    if pool.kind == "none":
        return torch.eye(side, dtype=torch.float64)
    return pooling_weights((side, pool.stride), pool).view(-1, side, pool.stride).sum(2)


def _taps(weights: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return the patches of each token along an axis, and the patches' weights: [tokens, taps]."""
    # Tokens at the border have fewer patches; unused taps have weight 0.
    patch = (weights > 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :taps]
    return patch.to(torch.int32), weights.gather(1, patch).float()
