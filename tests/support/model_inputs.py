"""Make frames without a file, and the stock transformers model's inputs for the same pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from aot.models.families.llava import Llava
from aot.types import VideoFrames, VideoInfo

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = {
    "native": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<video>\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "hf": "<|im_start|>user <video>\nWhat moves?<|im_end|><|im_start|>assistant\n",
}
QUESTION = "What moves?"


def frames_for(model: Llava, count: int = 4, seed: int = 0) -> VideoFrames:
    """Return `count` frames of noise at the model's input size."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, *model.image_size), dtype=torch.uint8, generator=generator)
    times = tuple(float(k) for k in range(count))
    info = VideoInfo("noise", "mp4", "h264", 160, 120, 0, 0, 1, count, count, 0, 1, float(count), 1.0, False, False)
    return VideoFrames(pixels, times, info)


def variant(model: Llava, **changes: Any) -> Llava:
    """Return the same network with other settings."""
    return Llava(model.network, model.tokenizer, replace(model.config, **changes), model.identity)


def stock_inputs(model: Llava, frames: VideoFrames, prompt: str) -> dict[str, Tensor]:
    """Return the inputs of transformers' forward pass: ids with video slots, pixels in [-1, 1]."""
    count = len(frames.pixels) * model.tokens_per_frame + 1
    ids = model.tokenizer(prompt.replace("<video>", "<video>" * count), add_special_tokens=False)["input_ids"]
    return {"input_ids": torch.tensor([ids]), "pixel_values_videos": ((frames.pixels.float() / 255 - 0.5) / 0.5)[None]}
