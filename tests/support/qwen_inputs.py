"""Make frames for Qwen-VL without a file, and the stock model's inputs for the same pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aot.models.families.qwen_vl import QwenVL
from aot.types import VideoFrames, VideoInfo
from tests.support.tiny_qwen import CLIP_MEAN, CLIP_STD, MERGE, PATCH

QUESTION = "What moves?"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER, ANSWER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
START, END, PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
STEP_S = 0.75  # between sampled frames


def video_of(height: int, width: int, frames: int = 8) -> VideoInfo:
    """Return the facts of a video that does not exist."""
    return VideoInfo(
        "noise", "mp4", "h264", width, height, 0, 0, 1, frames, frames, 0, 1, frames * STEP_S, 1.0, False, False
    )


def frames_of(size: tuple[int, int], count: int, seed: int = 0) -> VideoFrames:
    """Return `count` frames of noise with rows x cols pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    return VideoFrames(pixels, tuple(STEP_S * k for k in range(count)), video_of(*size, count))


def part_of(frames: VideoFrames, first: int, stop: int) -> VideoFrames:
    """Return frames first .. stop - 1."""
    return replace(frames, pixels=frames.pixels[first:stop], timestamps_s=frames.timestamps_s[first:stop])


def variant(model: QwenVL, **changes: Any) -> QwenVL:
    """Return the same network with other settings."""
    return type(model)(model.network, model.tokenizer, replace(model.config, **changes), model.identity)


def is_25(model: QwenVL) -> bool:
    """Return whether a model is Qwen2.5-VL."""
    return model.network.config.model_type == "qwen2_5_vl"


def patches_of(frame: Tensor, following: Tensor) -> list[Tensor]:
    """Return the patches of a pair of frames [3, H, W], those of a token together.

    Each patch is channels x 2 x rows x cols, flat.
    """
    _, height, width = frame.shape
    side, found = PATCH * MERGE, []
    for top in range(0, height, side):
        for left in range(0, width, side):
            for row in range(top, top + side, PATCH):
                for col in range(left, left + side, PATCH):
                    window = (slice(None), slice(row, row + PATCH), slice(col, col + PATCH))
                    both = [each[window] for each in (frame, following)]
                    found.append(torch.stack([both[time][channel] for channel in range(3) for time in range(2)]))
    return [patch.flatten() for patch in found]


def pixel_values(model: QwenVL, frames: VideoFrames) -> tuple[Tensor, Tensor]:
    """Return rows of patches, and their grid in time, height and width."""
    mean, std = (CLIP_MEAN, CLIP_STD) if is_25(model) else ([0.5] * 3, [0.5] * 3)
    values = (frames.pixels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    pictures = [*values, values[-1]] if len(values) % 2 else list(values)
    rows = [patch for k in range(0, len(pictures), 2) for patch in patches_of(pictures[k], pictures[k + 1])]
    height, width = frames.pixels.shape[2:]
    return torch.stack(rows), torch.tensor([[len(pictures) // 2, height // PATCH, width // PATCH]])


def prompt_text(model: QwenVL, frames: VideoFrames, template: str = "native", question: str = QUESTION) -> str:
    """Return the whole prompt, with every token of the video."""
    times, tokens = list(frames.timestamps_s), frames.pixels[0, 0].numel() // (PATCH * MERGE) ** 2
    times += times[-1:] * (len(times) % 2)
    pairs = [(times[k] + times[k + 1]) / 2 for k in range(0, len(times), 2)]
    if is_25(model):
        return SYSTEM + USER + START + PAD * (len(pairs) * tokens) + END + question + ANSWER
    video = "".join(f"<{time:.1f} seconds>{START}{PAD * tokens}{END}" for time in pairs)
    return USER + (START + video + END if template == "hf" else video) + question + ANSWER


def stock_inputs(
    model: QwenVL, frames: VideoFrames, template: str = "native", question: str = QUESTION
) -> dict[str, Tensor]:
    """Return the inputs of transformers' forward pass."""
    text = prompt_text(model, frames, template, question)
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    values, grid = pixel_values(model, frames)
    kinds = torch.where(ids == model.tokenizer.convert_tokens_to_ids(PAD), 2, 0)
    found = {"input_ids": ids, "pixel_values_videos": values, "video_grid_thw": grid, "mm_token_type_ids": kinds}
    return {**found, "second_per_grid_ts": torch.tensor([2 * STEP_S])} if is_25(model) else found
