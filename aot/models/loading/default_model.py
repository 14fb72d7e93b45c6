"""Choose the default model, which is used if the user does not name a model."""

from __future__ import annotations

from dataclasses import dataclass

from aot.config.schema import BUNDLED_MODEL, REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.loading.hub import Listing, is_cached, is_offline, list_files

__all__ = ["KNOWN_MODELS", "DefaultModel", "default_model"]

# Smallest first: on a device with room for a larger model, a smaller model fits as well.
_ONEVISION = (
    REAL_MODEL,
    "llava-hf/llava-onevision-qwen2-0.5b-si-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf",
    "llava-hf/llava-onevision-qwen2-7b-si-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-chat-hf",
)
# Suggestions for a misspelled name.
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
    """The model that is used if the user does not name a model.

    Attributes:
        name: the model's name.
        lacking: why `REAL_MODEL` cannot be used; None if `name` is `REAL_MODEL`.
        to_fetch: the files to download from the hub; None if no download is needed.
    """

    name: str
    lacking: str | None = None
    to_fetch: Listing | None = None


def default_model(config: ModelConfig) -> DefaultModel:
    """Return `REAL_MODEL` if it is cached or can be fetched, else a fallback.

    The fallback is the smallest LLaVA-OneVision in the cache, or else the bundled toy. The hub is
    not asked in offline mode (see `is_offline`). Otherwise `list_files` limits the wait.
    """
    # 1. Without the network.
    if is_cached(REAL_MODEL):
        return DefaultModel(REAL_MODEL)
    # 2. From the hub. To list the model's files also tests whether the hub can be reached.
    lacking = "offline mode is on (--offline or HF_HUB_OFFLINE)"
    if not is_offline(config):
        try:
            return DefaultModel(REAL_MODEL, to_fetch=list_files(REAL_MODEL))
        except ModelError as error:
            lacking = str(error)
    # 3. A fallback on this machine.
    return DefaultModel(next(filter(is_cached, _ONEVISION), BUNDLED_MODEL), lacking)
