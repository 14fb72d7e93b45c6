"""Families of video LLMs: frames to visual tokens, tokens and a question to an answer."""

from __future__ import annotations

from aot.config import REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.base import Answer, ModelIdentity, VideoModel

__all__ = ["FAMILIES", "Answer", "ModelIdentity", "VideoModel", "load_model"]

FAMILIES = {"llava_onevision": "LLaVA-OneVision (llava-hf/llava-onevision-qwen2-*-ov-hf)"}


def load_model(config: ModelConfig) -> VideoModel:
    """Load the model `config` names onto its device.

    Raises:
        ModelError: none is named, or it is unknown, not cached while offline, incomplete or unsupported.
    """
    if not config.name:
        raise ModelError(f"no model is set; pass --model (for instance {REAL_MODEL}) or set AOT_MODEL")
    from aot.models.loading import read_model_config

    description = read_model_config(config)
    kind = description.get("model_type")
    if kind not in FAMILIES:
        supported = "; ".join(FAMILIES.values())
        raise ModelError(f"{config.name} is a {kind or 'nameless'} model, which is not supported; use {supported}")
    from aot.memory import explained_memory
    from aot.models.llava_onevision import LlavaOnevision

    with explained_memory():
        return LlavaOnevision.load(config, description)
