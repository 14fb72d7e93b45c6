"""One decoded picture, brought to the size a model wants."""

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
    """position: in `FrameIndex.pts`. rgb: [H, W, 3], upright. damaged: the decoder flagged the picture.
    colors_guessed: they are coded in a way that cannot be converted here.
    """

    position: int
    rgb: NDArray[np.uint8]
    damaged: bool = False
    colors_guessed: bool = False


def resize(rgb: NDArray[np.uint8], size: tuple[int, int] | None) -> Tensor:
    """[H, W, 3] to uint8 [3, rows, cols] for `size` (rows, cols), antialiased bicubic; None keeps H x W."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    pixels = torch.from_numpy(rgb).permute(2, 0, 1)
    if size is None or tuple(size) == rgb.shape[:2]:
        return pixels
    return F.interpolate(pixels[None], size=tuple(size), mode="bicubic", antialias=True)[0]
