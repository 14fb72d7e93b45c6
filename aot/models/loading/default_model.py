"""Which model answers when none is named."""

from __future__ import annotations

from dataclasses import dataclass

from aot.config.schema import BUNDLED_MODEL, REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.loading.hub import Listing, is_cached, is_offline, list_files

__all__ = ["KNOWN_MODELS", "DefaultModel", "default_model"]

# From the smallest: it fits wherever a larger one does.
_ONEVISION = (
    REAL_MODEL,
    "llava-hf/llava-onevision-qwen2-0.5b-si-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf",
    "llava-hf/llava-onevision-qwen2-7b-si-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-chat-hf",
)
# Names to suggest for one that is misspelt.
KNOWN_MODELS = (
    BUNDLED_MODEL,
    *_ONEVISION,
    "lmms-lab/llava-onevision-qwen2-7b-ov",
    "lmms-lab/LLaVA-Video-7B-Qwen2",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
    "OpenGVLab/InternVL3-8B-hf",
)


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """name: of the model. lacking: why it is not `REAL_MODEL`; None if it is. to_fetch: what the hub has of it, None if
    nothing is to be fetched.
    """

    name: str
    lacking: str | None = None
    to_fetch: Listing | None = None


def default_model(config: ModelConfig) -> DefaultModel:
    """Return `REAL_MODEL` where it is cached or can be fetched; else the smallest LLaVA-OneVision of the cache; else
    the bundled toy. Takes as long as `list_files` at most. config: says whether to stay offline.
    """
    if is_cached(REAL_MODEL):
        return DefaultModel(REAL_MODEL)
    lacking = "offline mode is on (--offline or HF_HUB_OFFLINE)"
    if not is_offline(config):
        try:
            return DefaultModel(REAL_MODEL, to_fetch=list_files(REAL_MODEL))
        except ModelError as error:
            lacking = str(error)
    return DefaultModel(next(filter(is_cached, _ONEVISION), BUNDLED_MODEL), lacking)
