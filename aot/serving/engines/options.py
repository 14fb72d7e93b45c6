"""Open the engine that the user chose, and check before that it can answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aot.config.schema import Config
from aot.errors import ConfigError, ModelError, UnsupportedError
from aot.runtime.paths import path_kind

if TYPE_CHECKING:
    from aot.models.base import VideoModel
    from aot.models.composed import ComposedModel
    from aot.serving.engines.answers import EngineAnswerer

__all__ = ["TRANSFORMERS", "EngineOptions", "check_engine", "check_family", "check_prompts", "open_engine"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which engine answers.

    Attributes:
        name: "transformers" is the model itself, in this process.
        url: the address of a running vLLM server; None: vLLM in this process.
        folder: the exported language model for vLLM in this process; None: one in the cache.
        settings: vLLM's engine arguments.
        key: the API key of the server.
    """

    name: Literal["transformers", "vllm"] = "transformers"
    url: str | None = None
    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)

    @property
    def answers_at_once(self) -> int | None:
        """Return how many answers to begin together; None: no more than usual."""
        return None if self.name == "transformers" else 64


TRANSFORMERS = EngineOptions()


def check_engine(options: EngineOptions, config: Config) -> None:
    """Check what can be known before a model is loaded.

    Raises:
        ConfigError: If the engine is not installed, or an option is wrong.
        ModelError: If the server cannot be reached.
        UnsupportedError: If the settings need something that an engine cannot do.
    """
    if options.name == "transformers":
        return
    check_prompts(config)
    if options.url is not None:
        from aot.serving.engines.vllm_http import VllmServer

        VllmServer(options.url, options.key)
        return
    from aot.serving.engines.export import check_exportable
    from aot.serving.engines.vllm_here import check_vllm

    check_vllm()
    check_exportable(config.model)
    if options.folder is not None and path_kind(options.folder / "config.json") != "file":
        raise ConfigError(f"{options.folder} is no exported language model; write one: aot export MODEL -o FOLDER")


def check_prompts(config: Config) -> None:
    """Check that embeddings alone say what the language model is to read.

    Raises:
        UnsupportedError: If they do not.
    """
    if config.inner.name is not None:
        raise UnsupportedError(
            f"--inner {config.inner.name} drops tokens inside the language model, which an engine cannot do; "
            "use --engine transformers, or no --inner"
        )
    if config.model.positions == "original":
        raise UnsupportedError(
            "model.positions original numbers the tokens with gaps, and an engine numbers them 0, 1, 2, ...; "
            "use --engine transformers, or --set model.positions=packed"
        )


def check_family(implementation: type[ComposedModel], name: str) -> None:
    """Check that an engine gives the prompts of this family their right positions.

    Raises:
        UnsupportedError: If it does not.
    """
    if not implementation.text_positions:
        raise UnsupportedError(
            f"{name} numbers visual tokens by time, row and column, and an engine that is given embeddings numbers "
            "them like text; use --engine transformers, or vLLM itself with our plug-in (docs/engines.md)"
        )


def open_engine(model: VideoModel, options: EngineOptions) -> EngineAnswerer:
    """Start or reach the engine; the layers of the model's own language model are let go.

    Raises:
        ConfigError, ModelError, OutputError: If it does not start, or cannot be reached.
    """
    from aot.models.composed import ComposedModel
    from aot.serving.engines.answers import EngineAnswerer
    from aot.serving.engines.base import Engine

    assert isinstance(model, ComposedModel)
    check_family(type(model), model.identity.name)
    width = int(model.network.get_input_embeddings().weight.shape[1])
    engine: Engine
    if options.url is not None:
        from aot.serving.engines.vllm_http import VllmServer

        engine = VllmServer(options.url, options.key)
        engine.check(width)
        model.drop_language_layers()
    else:
        from aot.serving.engines.export import cached_language_model
        from aot.serving.engines.vllm_here import VllmHere

        folder = options.folder or cached_language_model(model)
        _check_width(folder, width)
        model.drop_language_layers()
        engine = VllmHere(folder, {**_defaults(model), **options.settings})
    return EngineAnswerer(model, engine)


def _defaults(model: ComposedModel) -> dict[str, Any]:
    """Return engine arguments that suit a process which also encodes videos."""
    dtype = str(model.network.dtype).removeprefix("torch.")
    if model.device.type == "cuda":
        return {"dtype": dtype, "gpu_memory_utilization": 0.7}  # the rest is for the vision tower
    # On a CPU the share is of all memory, most of which other programs may use. To compile takes
    # longer than most answers.
    return {"dtype": dtype, "gpu_memory_utilization": 0.3, "enforce_eager": True}


def _check_width(folder: Path, width: int) -> None:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder} has no readable config.json ({error}); export the language model again") from error
    if found != width:
        raise ConfigError(
            f"{folder} is the language model of another checkpoint: it reads {found} values per token, and this "
            f"checkpoint has {width}; export this one: aot export MODEL -o FOLDER"
        )
