"""Make tiny random Qwen2.5-VL and Qwen3-VL checkpoints in the layout of their hub repositories.

    make_qwen25_vl   windows of 2 x 2 tokens, full attention in two of seven blocks; a flat
    config.json make_qwen3_vl    two levels of deepstack; optionally with experts

A token covers 8 x 8 pixels of two frames. See `tiny_checkpoint` for the weights.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from aot.shapes.training.processor import write_json
from tests.support.tiny_checkpoint import (
    BYTE_SYMBOLS,
    SPECIAL_TOKENS,
    _fill,
    _leave_random_state,
    _make_printable,
    _rename_weights,
    _save,
    _write_tokenizer,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DEEPSTACK_BLOCKS",
    "FULL_ATTENTION",
    "QWEN_TOKENS",
    "TOKEN_SIDE",
    "WINDOW",
    "make_qwen3_vl",
    "make_qwen25_vl",
]

PATCH, MERGE = 4, 2
TOKEN_SIDE = PATCH * MERGE
WINDOW = 2  # tokens
WIDTH = 64
FULL_ATTENTION = [1, 5]
DEEPSTACK_BLOCKS = [1, 3]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

QWEN_TOKENS = (*SPECIAL_TOKENS[:3], "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_IDS = {token: len(BYTE_SYMBOLS) + number for number, token in enumerate(QWEN_TOKENS)}
_SPECIAL_IDS = {
    "image_token_id": _IDS["<|image_pad|>"],
    "video_token_id": _IDS["<|video_pad|>"],
    "vision_start_token_id": _IDS["<|vision_start|>"],
    "vision_end_token_id": _IDS["<|vision_end|>"],
}


@_leave_random_state
def make_qwen25_vl(folder: Path, *, seed: int = 0, dtype: str = "float32", most_tokens: int = 24) -> Path:
    """Write a Qwen2.5-VL checkpoint whose largest frame has `most_tokens` tokens."""
    vision = {
        **_vision(),
        "hidden_act": "silu",
        "depth": 7,
        "window_size": WINDOW * TOKEN_SIDE,
        "fullatt_block_indexes": FULL_ATTENTION,
        "tokens_per_second": 2,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
    config = Qwen2_5_VLConfig(text_config={**_text(), "rope_parameters": rope}, vision_config=vision, **_SPECIAL_IDS)
    _write(Qwen2_5_VLForConditionalGeneration(config), folder, seed, dtype, "Qwen2_5_VL")
    _rename_weights(folder, "model.visual.", "visual.")
    _rename_weights(folder, "model.language_model.", "model.")
    _flatten(folder / "config.json")
    pixels = {"min_pixels": 4 * TOKEN_SIDE**2, "max_pixels": most_tokens * TOKEN_SIDE**2}
    image = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "image_processor_type": "Qwen2VLImageProcessor"}
    write_json(folder / "preprocessor_config.json", {**pixels, **image, **_sides()})
    return folder


@_leave_random_state
def make_qwen3_vl(
    folder: Path, *, seed: int = 0, dtype: str = "float32", most_tokens: int = 200, experts: int = 0
) -> Path:
    """Write a Qwen3-VL checkpoint that limits a video to the pixels of `most_tokens` tokens.

    Both frames of a pair count.
    """
    vision = {
        **_vision(),
        "depth": 5,
        "num_position_embeddings": 6**2,
        "deepstack_visual_indexes": DEEPSTACK_BLOCKS,
    }
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {**_text(), "rope_parameters": rope, "head_dim": 16}
    settings: dict[str, Any] = {"vision_config": vision, **_SPECIAL_IDS}
    if experts:
        text |= {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
        network: Any = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(text_config=text, **settings))
    else:
        network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, **settings))
    _write(network, folder, seed, dtype, "Qwen3VL")
    size = {"shortest_edge": 4 * TOKEN_SIDE**2, "longest_edge": most_tokens * TOKEN_SIDE**2}
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    of_images = {"shortest_edge": 1, "longest_edge": 2}  # must not be used for videos
    write_json(folder / "preprocessor_config.json", {"size": of_images, **halves, **_sides()})
    write_json(folder / "video_preprocessor_config.json", {"size": size, **halves, **_sides()})
    return folder


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }


def _text() -> dict[str, Any]:
    return {
        "vocab_size": len(BYTE_SYMBOLS) + len(QWEN_TOKENS),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "bos_token_id": _IDS["<|endoftext|>"],
        "eos_token_id": _IDS["<|im_end|>"],
        "pad_token_id": _IDS["<|endoftext|>"],
    }


def _sides() -> dict[str, int]:
    return {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}


def _write(network: Any, folder: Path, seed: int, dtype: str, processor: str) -> None:
    _fill(network, seed)
    _make_printable(network.lm_head.weight)
    _save(network, folder, dtype)
    _write_tokenizer(folder, QWEN_TOKENS, processor)


def _flatten(path: Path) -> None:
    """Move the language model's settings to the top level, as in the hub's repositories."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text.pop("model_type"), text.pop("layer_types", None)
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    write_json(path, {**text, **config, "rope_theta": rope["rope_theta"], "rope_scaling": scaling})
