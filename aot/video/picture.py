"""Decoded pictures, and their resizing for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Picture", "resize"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        position: index of the frame in `FrameIndex.pts`.
        rgb: [H, W, 3], upright.
        damaged: whether the frame may be damaged.
        colors_guessed: whether the colors are a guess (see `RgbConverter.convert`).
    """

    position: int
    rgb: NDArray[np.uint8]
    damaged: bool = False
    colors_guessed: bool = False


def resize(rgb: NDArray[np.uint8], size: tuple[int, int] | None) -> Tensor:
    """Resize a picture [H, W, 3] to `size` (rows, cols); return uint8 [3, rows, cols].

    The interpolation is bicubic and antialiased. If `size` is None, the size is kept.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812

    pixels = torch.from_numpy(rgb).permute(2, 0, 1)
    if size is None or tuple(size) == rgb.shape[:2]:
        return pixels
    return F.interpolate(pixels[None], size=tuple(size), mode="bicubic", antialias=True)[0]
