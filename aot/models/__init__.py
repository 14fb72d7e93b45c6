"""Families of video LLMs: frames to visual tokens, tokens and a question to an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aot.config.schema import REAL_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.base import Answer, ModelIdentity, VideoModel
from aot.models.loading.hub import Listing

if TYPE_CHECKING:
    from aot.models.composed import ComposedModel

__all__ = [
    "FAMILIES",
    "Answer",
    "Family",
    "FoundModel",
    "ModelIdentity",
    "VideoModel",
    "describe_model",
    "fetch_model",
    "find_model",
    "identify_model",
    "load_found",
    "load_model",
]


@dataclass(frozen=True, slots=True)
class Family:
    """label: what it is called, with a name to load. module, cls: where it is."""

    label: str
    module: str
    cls: str


# By the `model_type` of a checkpoint's config.json.
FAMILIES = {
    "llava_onevision": Family(
        "LLaVA-OneVision and LLaVA-Video (llava-hf/llava-onevision-qwen2-*-ov-hf)", "aot.models.families.llava", "Llava"
    ),
    "llava_qwen": Family(
        "the same as first published (lmms-lab/llava-onevision-qwen2-*-ov, lmms-lab/LLaVA-Video-7B-Qwen2)",
        "aot.models.families.original_llava",
        "OriginalLlava",
    ),
    "qwen2_5_vl": Family("Qwen2.5-VL (Qwen/Qwen2.5-VL-*-Instruct)", "aot.models.families.qwen_families", "Qwen25VL"),
    "qwen3_vl": Family("Qwen3-VL (Qwen/Qwen3-VL-*-Instruct)", "aot.models.families.qwen_families", "Qwen3VL"),
    "qwen3_vl_moe": Family("Qwen3-VL (Qwen/Qwen3-VL-*-Instruct)", "aot.models.families.qwen_families", "Qwen3VL"),
    "internvl": Family(
        "InternVL3 in transformers' layout (OpenGVLab/InternVL3-*-hf)", "aot.models.families.internvl", "InternVL"
    ),
}
_ORIGINAL_LLAVA = "LlavaQwenForCausalLM"


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A checkpoint of which config.json has been read, and no weights. to_fetch: what of it is not on this machine."""

    config: ModelConfig
    family: Family
    description: Mapping[str, Any]
    to_fetch: Listing | None

    @property
    def language_layers(self) -> int | None:
        """Layers of the language model, None where config.json leaves them out."""
        text = self.description.get("text_config") or self.description
        layers = text.get("num_hidden_layers") if isinstance(text, dict) else None
        return layers if isinstance(layers, int) and layers > 0 else None

    @property
    def known_grid(self) -> tuple[int, int] | None:
        """The visual tokens (rows, cols) of a frame, None where the weights or the video decide."""
        return self.implementation.known_grid(self.config, self.description)

    @property
    def implementation(self) -> type[ComposedModel]:
        """The class that will run it."""
        found: type[ComposedModel] = getattr(import_module(self.family.module), self.family.cls)
        return found


def find_model(config: ModelConfig) -> FoundModel:
    """Find the checkpoint that `config` names and read its config.json. Whether a hub can be reached is decided within
    `aot.models.loading.hub.PATIENCE_S`.

    Raises:
        ConfigError: an option needs a device or a library that is not there.
        ModelError: none is named, or it is unknown, not cached and out of reach, or unsupported.
    """
    if not config.name:
        raise ModelError(f"no model is set; pass --model (for instance {REAL_MODEL}) or set AOT_MODEL")
    from aot.models.loading.checkpoints import pick_device
    from aot.models.loading.load_options import check_load_options
    from aot.models.loading.lookup import look_up

    check_load_options(config, pick_device(config.device))
    return describe_model(config, look_up(config))


def describe_model(config: ModelConfig, to_fetch: Listing | None) -> FoundModel:
    """As `find_model`, for one of which `aot.models.loading.lookup.look_up` has said what is to be fetched.

    Raises:
        ConfigError, ModelError: as `find_model`.
    """
    from aot.models.loading.checkpoints import explained, pick_device, read_model_config
    from aot.models.loading.hub import fetch_file
    from aot.models.loading.load_options import check_load_options

    check_load_options(config, pick_device(config.device))
    if to_fetch is not None and "config.json" in to_fetch.files:
        with explained(config):
            fetch_file(config, "config.json")
    description = read_model_config(config)
    kind = _kind(description)
    if kind not in FAMILIES:
        supported = "; ".join(dict.fromkeys(family.label for family in FAMILIES.values()))
        raise ModelError(f"{config.name} is a {kind or 'nameless'} model, which is not supported; use {supported}")
    return FoundModel(config, FAMILIES[kind], description, to_fetch)


def fetch_model(found: FoundModel, announce: Callable[[str], None] = lambda sentence: None) -> None:
    """Fetch what is missing of the checkpoint, if anything is; then `announce` gets one sentence with its size first.

    Raises:
        ModelError: it cannot be fetched whole.
    """
    if found.to_fetch is None or not found.to_fetch.files:
        return
    from aot.models.loading.checkpoints import explained
    from aot.models.loading.hub import fetch

    with explained(found.config):
        fetch(found.config, found.to_fetch, announce)


def identify_model(found: FoundModel) -> ModelIdentity:
    """Return the identity of a checkpoint that is on this machine, from the few weights that define its token space.

    Raises:
        ModelError: they are missing or damaged.
    """
    from aot.models.loading.checkpoints import identify

    return identify(found.config, found.description, found.implementation.token_space)


def load_model(config: ModelConfig) -> VideoModel:
    """Load the model `config` names onto its device, or devices; fetch it first where it is not on this machine.

    Raises:
        ConfigError, ModelError: as `find_model`, or the checkpoint is incomplete.
    """
    found = find_model(config)
    fetch_model(found)
    return load_found(found)


def load_found(found: FoundModel) -> VideoModel:
    """As `load_model`, for a checkpoint that is on this machine.

    Raises:
        ConfigError, ModelError: as `load_model`.
    """
    from aot.runtime.memory import explained_memory

    with explained_memory():
        model: VideoModel = found.implementation.load(found.config, dict(found.description))
    return model


def _kind(description: Mapping[str, Any]) -> str | None:
    """A checkpoint's `model_type`. Those of the original LLaVAs mostly say "llava", another layout in transformers, but
    the name of their architecture is their own.
    """
    kind: str | None = description.get("model_type")
    architectures = description.get("architectures")
    return "llava_qwen" if isinstance(architectures, list) and _ORIGINAL_LLAVA in architectures else kind
