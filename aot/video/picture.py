"""A decoded picture, and its resizing for the model."""

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
        position: its index into `FrameIndex.pts`.
        rgb: [H, W, 3], upright.
        damaged: whether the decoder flagged it.
        colors_guessed: whether the conversion of its colors is not supported.
    """

    position: int
    rgb: NDArray[np.uint8]
    damaged: bool = False
    colors_guessed: bool = False


def resize(rgb: NDArray[np.uint8], size: tuple[int, int] | None) -> Tensor:
    """Return a picture [H, W, 3] as uint8 [3, rows, cols], by antialiased bicubic interpolation.

    `size` is (rows, cols); None keeps H x W.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812

    pixels = torch.from_numpy(rgb).permute(2, 0, 1)
    if size is None or tuple(size) == rgb.shape[:2]:
        return pixels
    return F.interpolate(pixels[None], size=tuple(size), mode="bicubic", antialias=True)[0]
