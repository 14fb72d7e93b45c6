"""From pixels to what a vision tower expects, without torchvision or pillow.

Frames are resized while decoding (bicubic, antialiased, on uint8: within 2/255 of pillow's); what is left
is normalising.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config import ModelConfig
from aot.errors import ModelError
from aot.models.loading import read_json

__all__ = ["SIGLIP", "pixel_statistics"]

SIGLIP = (0.5, 0.5, 0.5)  # both its mean and its deviation

_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


def pixel_statistics(
    config: ModelConfig, mean: Sequence[float] = SIGLIP, std: Sequence[float] = SIGLIP
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [1, 3, 1, 1] from the checkpoint's files; `mean` and `std` where they say nothing.

    Raises:
        ModelError: a file gives something other than three numbers.
    """
    for filename in _FILES:
        found = read_json(config, filename)
        found = found.get("video_processor") or found
        if "image_mean" in found and "image_std" in found:
            return _channels(found["image_mean"]), _channels(found["image_std"])
    return _channels(list(mean)), _channels(list(std))


def _channels(values: Any) -> Tensor:
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise ModelError(f"the preprocessor's mean and deviation must be three numbers, got {values!r}")
    return torch.tensor(values, dtype=torch.float32)[None, :, None, None]
