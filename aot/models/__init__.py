"""Families of video LLMs: frames to visual tokens, tokens and a question to an answer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from aot.config import REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.base import Answer, ModelIdentity, VideoModel

__all__ = ["FAMILIES", "Answer", "Family", "ModelIdentity", "VideoModel", "load_model"]


@dataclass(frozen=True, slots=True)
class Family:
    """label: what it is called, with a name to load. module, cls: where it is."""

    label: str
    module: str
    cls: str


# By the `model_type` of a checkpoint's config.json.
FAMILIES = {
    "llava_onevision": Family(
        "LLaVA-OneVision and LLaVA-Video (llava-hf/llava-onevision-qwen2-*-ov-hf)", "aot.models.llava", "Llava"
    ),
    "llava_qwen": Family(
        "the same as first published (lmms-lab/llava-onevision-qwen2-*-ov, lmms-lab/LLaVA-Video-7B-Qwen2)",
        "aot.models.original_llava",
        "OriginalLlava",
    ),
    "qwen2_5_vl": Family("Qwen2.5-VL (Qwen/Qwen2.5-VL-*-Instruct)", "aot.models.qwen_families", "Qwen25VL"),
    "qwen3_vl": Family("Qwen3-VL (Qwen/Qwen3-VL-*-Instruct)", "aot.models.qwen_families", "Qwen3VL"),
    "qwen3_vl_moe": Family("Qwen3-VL (Qwen/Qwen3-VL-*-Instruct)", "aot.models.qwen_families", "Qwen3VL"),
    "internvl": Family(
        "InternVL3 in transformers' layout (OpenGVLab/InternVL3-*-hf)", "aot.models.internvl", "InternVL"
    ),
}
_ORIGINAL_LLAVA = "LlavaQwenForCausalLM"


def load_model(config: ModelConfig) -> VideoModel:
    """Load the model `config` names onto its device, or devices.

    Raises:
        ConfigError: an option needs a device or a library that is not there.
        ModelError: none is named, or it is unknown, not cached while offline, incomplete or unsupported.
    """
    if not config.name:
        raise ModelError(f"no model is set; pass --model (for instance {REAL_MODEL}) or set AOT_MODEL")
    from aot.models.load_options import check_load_options
    from aot.models.loading import pick_device, read_model_config

    check_load_options(config, pick_device(config.device))
    description = read_model_config(config)
    kind = _kind(description)
    if kind not in FAMILIES:
        supported = "; ".join(dict.fromkeys(family.label for family in FAMILIES.values()))
        raise ModelError(f"{config.name} is a {kind or 'nameless'} model, which is not supported; use {supported}")
    from aot.memory import explained_memory

    family = FAMILIES[kind]
    with explained_memory():
        model: VideoModel = getattr(import_module(family.module), family.cls).load(config, description)
    return model


def _kind(description: dict[str, Any]) -> str | None:
    """A checkpoint's `model_type`. Those of the original LLaVAs mostly say "llava", another layout in transformers, but
    the name of their architecture is their own.
    """
    kind: str | None = description.get("model_type")
    architectures = description.get("architectures")
    return "llava_qwen" if isinstance(architectures, list) and _ORIGINAL_LLAVA in architectures else kind
