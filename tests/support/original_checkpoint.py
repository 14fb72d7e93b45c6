"""Make tiny checkpoints in the layout of lmms-lab from tiny ones in the layout of transformers.

make_original   the same weights under LLaVA's own names, with its config.json and files
make_twins      both layouts, with a tower whose heads are as wide as those of SigLIP so400m
whole_siglip    the parts of SigLIP that LLaVA leaves out
rewrite_weights, write_weights
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from aot.shapes.training.processor import write_json
from tests.support.tiny_checkpoint import WEIGHTS, make_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HEAD_WIDTH", "TOWER", "make_original", "make_twins", "rewrite_weights", "whole_siglip", "write_weights"]

HEAD_WIDTH = 72
TOWER = "model.vision_tower.vision_tower.vision_model."

_NAMES = {
    "vision_tower.vision_model.": TOWER,
    "multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "image_newline": "model.image_newline",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
# Settings of LLaVA-OneVision 7B other than sizes, as far as they can matter.
_SETTINGS: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "image_aspect_ratio": "anyres_max_9",
    "mm_hidden_size": HEAD_WIDTH,
    "mm_newline_position": "one_token",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": None,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "rope_scaling": None,
    "tokenizer_model_max_length": 32768,
    "transformers_version": "4.40.0.dev0",
    "use_mm_proj": True,
    "vision_tower_pretrained": None,
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")


def make_twins(folder: Path, *, blocks: int = 3, **arguments: Any) -> tuple[Path, Path]:
    """Return the original and its twin in transformers' layout, with one head per block.

    Arguments are those of `make_checkpoint`.
    """
    sizes = {"grid": 9, "vision_width": HEAD_WIDTH, "vision_heads": 1, **arguments}
    twin = make_checkpoint(folder / "twin", vision_layers=blocks, **sizes)
    return make_original(folder / "original", twin), twin


def make_original(folder: Path, twin: Path, *, shards: int = 1, settings: dict[str, Any] | None = None) -> Path:
    """Write the weights of `twin` in LLaVA's own layout; `settings` go to config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, {_original(name): weight for name, weight in load_file(twin / WEIGHTS).items()}, shards)
    text = json.loads((twin / "config.json").read_text(encoding="utf-8"))["text_config"]
    rope = text.pop("rope_parameters")
    del text["layer_types"]
    text |= {"rope_theta": rope["rope_theta"], "sliding_window": 131072}
    write_json(folder / "config.json", {**text, **_SETTINGS, **(settings or {})})
    shutil.copy(twin / "generation_config.json", folder)
    for name in _TOKENIZER:
        shutil.copy(twin / name, folder)
    _forget_media_tokens(folder)
    return folder


def rewrite_weights(folder: Path, more: dict[str, Tensor] | None = None, without: str = "nothing") -> list[str]:
    """Rewrite a single file with `more` weights, without names that begin with `without`.

    Return the names that were left out.
    """
    weights = load_file(folder / WEIGHTS)
    dropped = [name for name in weights if name.startswith(without)]
    write_weights(folder, {name: weight for name, weight in weights.items() if name not in dropped} | (more or {}))
    return dropped


def write_weights(folder: Path, weights: dict[str, Tensor], shards: int = 1) -> None:
    """Write one file, or several with an index.

    A file is replaced and never changed, because loaded weights may be mapped from it.
    """
    if shards == 1:
        save_file(weights, folder / "new", metadata={"format": "pt"})
        (folder / "new").replace(folder / WEIGHTS)
        return
    places = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(sorted(weights.items())[number::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(weight.nbytes for weight in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def whole_siglip(blocks: int = 27, width: int = HEAD_WIDTH) -> dict[str, Tensor]:
    """Return random weights of SigLIP's last block and pooling head, which LLaVA leaves out."""
    generator = torch.Generator().manual_seed(5)
    last, mlp = f"encoder.layers.{blocks - 1}.", 2 * width
    shapes: dict[str, tuple[int, ...]] = {"head.probe": (1, 1, width)}
    shapes |= {"head.attention.in_proj_weight": (3 * width, width), "head.attention.in_proj_bias": (3 * width,)}
    attention = [last + f"self_attn.{part}_proj." for part in ("q", "k", "v", "out")]
    for layer in (*attention, "head.attention.out_proj."):
        shapes |= {layer + "weight": (width, width), layer + "bias": (width,)}
    for norm in (last + "layer_norm1.", last + "layer_norm2.", "head.layernorm."):
        shapes |= {norm + "weight": (width,), norm + "bias": (width,)}
    for place in (last, "head."):
        shapes |= {place + "mlp.fc1.weight": (mlp, width), place + "mlp.fc1.bias": (mlp,)}
        shapes |= {place + "mlp.fc2.weight": (width, mlp), place + "mlp.fc2.bias": (width,)}
    return {TOWER + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _original(name: str) -> str:
    old = next(old for old in _NAMES if name.startswith(old))
    return _NAMES[old] + name[len(old) :]


def _forget_media_tokens(folder: Path) -> None:
    """Remove the tokens for pictures and videos, which LLaVA's own tokenizer (Qwen2's) lacks."""
    media = ("<image>", "<video>")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] not in media]
    write_json(folder / "tokenizer.json", tokenizer)
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    write_json(folder / "added_tokens.json", {token: number for token, number in added.items() if token not in media})
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {k: token for k, token in decoder.items() if token["content"] not in media}
    write_json(folder / "tokenizer_config.json", settings)
