"""The flags by which `ask`, `batch` and `serve` choose what generates the answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aot.config.presets import parse_yaml
from aot.errors import ConfigError
from aot.serving.engines.options import EngineOptions

__all__ = ["ENGINE_VARIABLES", "engine_parameters", "read_engine"]

# Those of the flags, and that of the plug-in of vLLM, which aot itself does not read.
ENGINE_VARIABLES = ("AOT_ENGINE", "AOT_ENGINE_URL", "AOT_ENGINE_API_KEY", "AOT_VLLM_METHOD")

_PANEL = "Engine"
_FLAGS: dict[str, Any] = {
    "engine_name": Annotated[
        Literal["transformers", "vllm"] | None,
        typer.Option(
            "--engine",
            help="What generates the answers; vllm gets the embeddings of the prompt, and batches requests "
            "(default: transformers).",
            rich_help_panel=_PANEL,
            envvar="AOT_ENGINE",
            show_envvar=False,
        ),
    ],
    "engine_url": Annotated[
        str | None,
        typer.Option(
            "--engine-url",
            metavar="URL",
            help="Address of a running vllm serve FOLDER --enable-prompt-embeds.",
            rich_help_panel=_PANEL,
            envvar="AOT_ENGINE_URL",
            show_envvar=False,
        ),
    ],
    "engine_model": Annotated[
        Path | None,
        typer.Option(
            "--engine-model",
            metavar="FOLDER",
            help="Folder that aot export has written, for vLLM in this process (default: one in the cache).",
            rich_help_panel=_PANEL,
        ),
    ],
    "engine_settings": Annotated[
        list[str] | None,
        typer.Option(
            "--engine-set",
            metavar="NAME=VALUE",
            help="Set an engine argument of vLLM in this process, e.g. gpu_memory_utilization=0.8. Repeatable.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ],
    "engine_key": Annotated[
        str | None,
        typer.Option(
            "--engine-api-key",
            metavar="KEY",
            help="API key of --engine-url; the variable AOT_ENGINE_API_KEY hides it from others.",
            rich_help_panel=_PANEL,
            envvar="AOT_ENGINE_API_KEY",
            show_envvar=False,
        ),
    ],
}


def engine_parameters() -> list[inspect.Parameter]:
    """Return the parameters of the flags, for a function that typer calls."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in _FLAGS.items()]


def read_engine(values: dict[str, Any]) -> EngineOptions:
    """Remove the flags from `values`; return what they say.

    Raises:
        ConfigError: If they contradict each other.
    """
    name, url, folder, texts, key = (values.pop(parameter) for parameter in _FLAGS)
    name = name or ("vllm" if url else "transformers")
    given = {"--engine-url": url, "--engine-model": folder, "--engine-set": texts, "--engine-api-key": key}
    used = [flag for flag, value in given.items() if value]
    if name == "transformers" and used:
        raise ConfigError(f"{used[0]} has no effect on --engine transformers; use --engine vllm")
    if url and (folder or texts):
        raise ConfigError(f"{' and '.join(used[1:])} are for vLLM in this process, and --engine-url names a server")
    chosen: Literal["transformers", "vllm"] = "vllm" if name == "vllm" else "transformers"
    return EngineOptions(chosen, url, folder, _settings(texts or []), key)


def _settings(texts: list[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--engine-set: {text} is not NAME=VALUE, for example max_model_len=8192")
        found[name.strip().replace("-", "_")] = parse_yaml(value, f"--engine-set: the value in {text}")
    return found
