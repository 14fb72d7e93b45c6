"""Normalize pixels for a vision tower, without torchvision or pillow.

Frames are resized while decoding (bicubic, antialiased, on uint8; at most 2/255 from pillow's
result), so only the statistics of the normalization are needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.loading.checkpoints import read_json

__all__ = ["CLIP", "HALF", "IMAGENET", "pixel_statistics", "video_settings"]

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

# Mean and standard deviation per channel. SigLIP uses HALF.
HALF: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: Statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


def pixel_statistics(
    config: ModelConfig, mean: Sequence[float] = HALF[0], deviation: Sequence[float] = HALF[1]
) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation that normalize pixels, [1, 3, 1, 1] each.

    `mean` and `deviation` are returned if no file of the checkpoint gives other values.

    Raises:
        ModelError: `image_mean` or `image_std` in a file is not a list of three numbers.
    """
    for filename in _FILES:
        found = read_json(config, filename)
        # Newer checkpoints nest the settings in processor_config.json.
        found = found.get("video_processor") or found
        if "image_mean" in found and "image_std" in found:
            return _channels(found["image_mean"]), _channels(found["image_std"])
    return _channels(list(mean)), _channels(list(deviation))


def video_settings(config: ModelConfig) -> dict[str, Any]:
    """Return the video preprocessor's settings, from the first of `_FILES` that has settings."""
    nested = read_json(config, _FILES[0]).get("video_processor")
    return dict(nested or read_json(config, _FILES[1]) or read_json(config, _FILES[2]))


def _channels(values: Any) -> Tensor:
    """Return three numbers as a tensor [1, 3, 1, 1]."""
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise ModelError(f"image_mean and image_std of the preprocessor must be three numbers each, got {values!r}")
    return torch.tensor(values, dtype=torch.float32)[None, :, None, None]
