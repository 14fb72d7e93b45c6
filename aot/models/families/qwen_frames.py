"""Frame sizes for Qwen-VL's towers, packing of frames into patch rows, and the attention order.

A patch is a square of pixels in `temporal` consecutive frames. The tower merges squares of `merge`
x `merge` patches into one token, so the patches of a token are adjacent rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aot.errors import ConfigError, ModelError

__all__ = ["FrameSizes", "inverse", "packed", "window_order"]


@dataclass(frozen=True, slots=True)
class FrameSizes:
    """Limits of the frame sizes that a checkpoint reads.

    Attributes:
        factor: the side of a token in pixels; frame sides are multiples of `factor`.
        least: the minimum number of pixels per frame.
        most: the maximum number of pixels per frame.
        of_all: whether `least` and `most` limit all frames of a video together.
    """

    factor: int
    least: int
    most: int
    of_all: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], default: FrameSizes) -> FrameSizes:
        """Return the limits in the preprocessor's `settings`; `default` gives missing limits.

        Raises:
            ModelError: a limit in `settings` is not a positive integer.
        """
        nested = settings.get("size")
        size = {**(nested if isinstance(nested, Mapping) else {}), **settings}
        least = _first(size, ("min_pixels", "shortest_edge"), default.least)
        most = _first(size, ("max_pixels", "longest_edge"), default.most)
        if not all(isinstance(value, int) and value > 0 for value in (least, most)):
            raise ModelError(f"the preprocessor's pixel limits must be positive integers, got {least!r} to {most!r}")
        return cls(default.factor, least, most, default.of_all)

    def of_frame(self, height: int, width: int, frames: int, most: int | None = None) -> tuple[int, int]:
        """Return the size (rows, cols) in pixels to which frames of height x width are resized.

        The aspect ratio changes little. `most` is the user's limit of pixels per frame.

        Raises:
            ConfigError: `most` is below the pixels of one token.
        """
        # 1. The checkpoint's own size, if it is within the user's limit.
        size = self._stock(height, width, frames)
        if most is None or math.prod(size) <= most:
            return size
        if most < self.factor**2:
            raise ConfigError(
                f"model.frame_pixels must be at least {self.factor**2} ({self.factor} x {self.factor}, one token) for "
                f"this model, got {most}"
            )
        # 2. Otherwise shrink to the limit, also for a frame that is one token high or wide.
        rows, cols = _shrunk(height, width, 1, most, self.factor)
        longest = most // self.factor // self.factor * self.factor
        return min(rows, longest), min(cols, longest)

    def _stock(self, height: int, width: int, frames: int) -> tuple[int, int]:
        """Return the size that the checkpoint's own processor chooses."""
        # 1. Number of frames, and sides of at least one token. The processor compares limits with
        # an even number of frames, but scales by the exact number.
        factor, counted = self.factor, 1
        if self.of_all:
            frames = max(frames, 2)
            counted = round(frames / 2) * 2
            scale = max(factor / height, factor / width, 1)
            height, width = int(height * scale), int(width * scale)
        else:
            frames = 1
        # 2. The nearest multiples of `factor`.
        rows, cols = (round(side / factor) * factor for side in (height, width))
        # 3. Shrink or enlarge to the limits.
        if counted * rows * cols > self.most:
            return _shrunk(height, width, frames, self.most, factor)
        if counted * rows * cols < self.least:
            scale = math.sqrt(self.least / (frames * height * width))
            rows, cols = (math.ceil(side * scale / factor) * factor for side in (height, width))
        return rows, cols


def _first(settings: Mapping[str, Any], names: tuple[str, str], default: int) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), default)


def _shrunk(height: int, width: int, frames: int, most: int, factor: int) -> tuple[int, int]:
    """Shrink sides to multiples of `factor`; `frames` frames then have at most `most` pixels."""
    scale = math.sqrt(frames * height * width / most)
    rows, cols = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    return rows, cols


def packed(pixels: Tensor, temporal: int, patch: int, merge: int) -> Tensor:
    """Return frames [F, C, H, W] as patches, [T * N, C * temporal * patch * patch].

    T = F / temporal, rounded up; the last frame is repeated to fill the last group.

    Raises:
        ValueError: a frame side is not a multiple of patch * merge.
    """
    frames, channels, height, width = pixels.shape
    for axis, side in ((2, height), (3, width)):
        if side % (patch * merge):
            raise ValueError(f"axis {axis} of pixels: expected a multiple of {patch * merge}, got {side}")
    # 1. Whole groups of frames.
    if missing := -frames % temporal:
        pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    # 2. One axis each for tokens, patches in a token, and pixels in a patch.
    sides = (height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    parts = pixels.reshape(-1, temporal, channels, *sides)
    # 3. In order: time, token row and col, patch row and col, channel, frame, pixel row and col.
    return parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * temporal * patch**2)


def window_order(rows: int, cols: int, side: int) -> Tensor:
    """Return the raster indices of a frame's tokens, sorted by window: int64 [rows * cols].

    Windows of `side` x `side` tokens are in raster order; windows at the right and bottom edges may
    be smaller.
    """
    row, col = torch.arange(rows)[:, None], torch.arange(cols)[None]
    window = row // side * math.ceil(cols / side) + col // side
    return window.flatten().argsort(stable=True)


def inverse(order: Tensor) -> Tensor:
    """Return the permutation that reverses `order`."""
    return order.argsort()
