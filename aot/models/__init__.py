"""Find and load video LLMs, which answer questions about the frames of a video."""

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
    """A model family: `label` lists its checkpoints; the class `cls` in `module` runs them."""

    label: str
    module: str
    cls: str


# Families by `model_type` in config.json. Their classes are imported later, because that takes
# seconds.
FAMILIES = {
    "llava_onevision": Family(
        "LLaVA-OneVision and LLaVA-Video (llava-hf/llava-onevision-qwen2-*-ov-hf)", "aot.models.families.llava", "Llava"
    ),
    "llava_qwen": Family(
        "the same models in their original layout (lmms-lab/llava-onevision-qwen2-*-ov, lmms-lab/LLaVA-Video-7B-Qwen2)",
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
    """A checkpoint whose config.json has been read; the weights are not loaded yet.

    `description` is the content of config.json. `to_fetch` lists the files to download before
    loading; None if the checkpoint is on this machine or the hub must not be asked.
    """

    config: ModelConfig
    family: Family
    description: Mapping[str, Any]
    to_fetch: Listing | None

    @property
    def language_layers(self) -> int | None:
        """Return the number of language model layers; None if config.json omits the number."""
        # Some layouts have no separate section for the language model.
        text = self.description.get("text_config") or self.description
        layers = text.get("num_hidden_layers") if isinstance(text, dict) else None
        return layers if isinstance(layers, int) and layers > 0 else None

    @property
    def known_grid(self) -> tuple[int, int] | None:
        """Return a frame's token grid (rows, cols); None if config.json does not fix the grid."""
        return self.implementation.known_grid(self.config, self.description)

    @property
    def implementation(self) -> type[ComposedModel]:
        """Return the class that runs the checkpoint."""
        found: type[ComposedModel] = getattr(import_module(self.family.module), self.family.cls)
        return found


def find_model(config: ModelConfig) -> FoundModel:
    """Find the checkpoint that `config` names and read its config.json.

    The wait for the hub ends after `aot.models.loading.hub.PATIENCE_S` seconds.

    Raises:
        ConfigError: If an option needs a device or library that is missing.
        ModelError: If no model is named, or the model is unknown, unsupported, or neither cached
            nor reachable on the hub.
    """
    if not config.name:
        raise ModelError(f"no model is set; pass --model (for instance {REAL_MODEL}) or set AOT_MODEL")
    from aot.models.loading.checkpoints import pick_device
    from aot.models.loading.load_options import check_load_options
    from aot.models.loading.lookup import look_up

    # Options are checked first, so that an invalid option fails without the network.
    check_load_options(config, pick_device(config.device))
    return describe_model(config, look_up(config))


def describe_model(config: ModelConfig, to_fetch: Listing | None) -> FoundModel:
    """Read config.json of the checkpoint that `config` names, after `look_up` has found it.

    `to_fetch` is the result of `aot.models.loading.lookup.look_up`.

    Raises:
        ConfigError, ModelError: See `find_model`.
    """
    from aot.models.loading.checkpoints import explained, pick_device, read_model_config
    from aot.models.loading.hub import fetch_file
    from aot.models.loading.load_options import check_load_options

    check_load_options(config, pick_device(config.device))
    # config.json is small and is fetched immediately; weights follow in `fetch_model`.
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
    """Download the missing files of a checkpoint, if any.

    Before a download, `announce` receives one sentence with the size of the download.

    Raises:
        ModelError: If the download is incomplete.
    """
    if found.to_fetch is None or not found.to_fetch.files:
        return
    from aot.models.loading.checkpoints import explained
    from aot.models.loading.hub import fetch

    with explained(found.config):
        fetch(found.config, found.to_fetch, announce)


def identify_model(found: FoundModel) -> ModelIdentity:
    """Return the identity of a checkpoint on this machine: name, revision and a hash of weights.

    The hash covers only the weights that define the space of the visual tokens.

    Raises:
        ModelError: If these weights are missing or damaged.
    """
    from aot.models.loading.checkpoints import identify

    return identify(found.config, found.description, found.implementation.token_space)


def load_model(config: ModelConfig) -> VideoModel:
    """Load the model that `config` names onto its devices, after a download if needed.

    Raises:
        ConfigError: See `find_model`.
        ModelError: See `find_model`, or if the checkpoint is incomplete.
    """
    found = find_model(config)
    fetch_model(found)
    return load_found(found)


def load_found(found: FoundModel) -> VideoModel:
    """Load a checkpoint that is on this machine.

    Raises:
        ConfigError, ModelError: See `load_model`.
    """
    from aot.runtime.memory import explained_memory

    # Errors of allocators become a MemoryLimitError with a remedy.
    with explained_memory():
        model: VideoModel = found.implementation.load(found.config, dict(found.description))
    return model


def _kind(description: Mapping[str, Any]) -> str | None:
    """Return a checkpoint's `model_type`, or "llava_qwen" for the original LLaVA checkpoints."""
    # Most original checkpoints have the type "llava", which is another layout in transformers. Only
    # the name of their architecture is unique.
    kind: str | None = description.get("model_type")
    architectures = description.get("architectures")
    return "llava_qwen" if isinstance(architectures, list) and _ORIGINAL_LLAVA in architectures else kind
