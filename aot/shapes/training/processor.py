"""Write the processor files of LLaVA-OneVision, in the format of the hub's repositories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_json", "write_processor"]

# Gives the same prompts as the hub's template: the role, then images, videos and texts.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for kind in ['image', 'video', 'text'] %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', kind) %}"
    "{{ '\n' + part['text'] if kind == 'text' else '<' + kind + '>' }}"
    "{% endfor %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_processor(folder: Path, side: int, grid: int, pinpoints: Sequence[Sequence[int]]) -> None:
    """Write the processor files and the chat template.

    Args:
        folder: the folder to write to.
        side: width and height of a picture in pixels.
        grid: number of patches per side.
        pinpoints: picture sizes that may be tiled.
    """
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    image = {
        "do_pad": True,
        "image_grid_pinpoints": pinpoints,
        "image_processor_type": "LlavaOnevisionImageProcessor",
    }
    processor = {
        "image_token": "<image>",
        "num_image_tokens": grid * grid,
        "processor_class": "LlavaOnevisionProcessor",
        "video_token": "<video>",
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
    }
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    write_json(folder / "preprocessor_config.json", {**pixels, **image})
    write_json(folder / "video_preprocessor_config.json", {**pixels, **video})
    write_json(folder / "processor_config.json", processor)
    write_json(folder / "chat_template.json", {"chat_template": _CHAT_TEMPLATE})


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON that ends with a newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
