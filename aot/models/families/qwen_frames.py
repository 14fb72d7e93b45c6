"""Frames as Qwen-VL's towers want them: which size, packed into rows of patches, and in which order these attend.

A patch is a square of `temporal` consecutive frames. The tower merges squares of `merge` x `merge` patches into one
token, so the patches of one token come first, then those of the next.
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
    """The sizes a checkpoint reads: sides are multiples of `factor`, and there are `least` to `most` pixels, in a frame
    or with `of_all` in all frames of a video.
    """

    factor: int
    least: int
    most: int
    of_all: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], default: FrameSizes) -> FrameSizes:
        """By a checkpoint's preprocessor file; what that does not say is as in `default`.

        Raises:
            ModelError: it says something that is no number of pixels.
        """
        nested = settings.get("size")
        size = {**(nested if isinstance(nested, Mapping) else {}), **settings}
        least = _first(size, ("min_pixels", "shortest_edge"), default.least)
        most = _first(size, ("max_pixels", "longest_edge"), default.most)
        if not all(isinstance(value, int) and value > 0 for value in (least, most)):
            raise ModelError(f"the preprocessor's pixels must be whole numbers above 0, got {least!r} to {most!r}")
        return cls(default.factor, least, most, default.of_all)

    def of_frame(self, height: int, width: int, frames: int, most: int | None = None) -> tuple[int, int]:
        """(rows, cols) in pixels for `frames` frames of height x width, about as high and wide in proportion; `most`
        is the user's limit for a frame.

        Raises:
            ConfigError: nothing is as small as `most`.
        """
        size = self._stock(height, width, frames)
        if most is None or math.prod(size) <= most:
            return size
        if most < self.factor**2:
            raise ConfigError(
                f"model.frame_pixels must be at least {self.factor**2} ({self.factor} x {self.factor}, one token) for "
                f"this model, got {most}"
            )
        rows, cols = _shrunk(height, width, 1, most, self.factor)
        longest = most // self.factor // self.factor * self.factor  # of a frame that is one token high or wide
        return min(rows, longest), min(cols, longest)

    def _stock(self, height: int, width: int, frames: int) -> tuple[int, int]:
        """As the checkpoint's own processor has it, which counts an odd number of frames as one less or one more."""
        factor, counted = self.factor, 1
        if self.of_all:
            frames = max(frames, 2)
            counted = round(frames / 2) * 2
            scale = max(factor / height, factor / width, 1)
            height, width = int(height * scale), int(width * scale)
        else:
            frames = 1
        rows, cols = (round(side / factor) * factor for side in (height, width))
        if counted * rows * cols > self.most:
            return _shrunk(height, width, frames, self.most, factor)
        if counted * rows * cols < self.least:
            scale = math.sqrt(self.least / (frames * height * width))
            rows, cols = (math.ceil(side * scale / factor) * factor for side in (height, width))
        return rows, cols


def _first(settings: Mapping[str, Any], names: tuple[str, str], default: int) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), default)


def _shrunk(height: int, width: int, frames: int, most: int, factor: int) -> tuple[int, int]:
    scale = math.sqrt(frames * height * width / most)
    rows, cols = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    return rows, cols


def packed(pixels: Tensor, temporal: int, patch: int, merge: int) -> Tensor:
    """[F, C, H, W] to rows [T * N, C * temporal * patch * patch], one for a patch, T = F / temporal; frames that are
    missing at the end are the last one again.

    Raises:
        ValueError: a side is no multiple of patch * merge.
    """
    frames, channels, height, width = pixels.shape
    for axis, side in ((2, height), (3, width)):
        if side % (patch * merge):
            raise ValueError(f"axis {axis} of pixels: expected a multiple of {patch * merge}, got {side}")
    if missing := -frames % temporal:
        pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    sides = (height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    parts = pixels.reshape(-1, temporal, channels, *sides)
    # time, token's row and column, patch's row and column in it, channel, frame, pixel's row and column
    return parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * temporal * patch**2)


def window_order(rows: int, cols: int, side: int) -> Tensor:
    """The tokens of a frame window by window, int64 [rows * cols] of raster numbers: windows of side x side tokens in
    raster order, those at the right and at the bottom smaller.
    """
    row, col = torch.arange(rows)[:, None], torch.arange(cols)[None]
    window = row // side * math.ceil(cols / side) + col // side
    return window.flatten().argsort(stable=True)


def inverse(order: Tensor) -> Tensor:
    """The order that undoes an order."""
    return order.argsort()
