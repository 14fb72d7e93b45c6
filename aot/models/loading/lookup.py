"""Find a checkpoint in a folder, the hub's cache or the hub, without importing torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aot.config.schema import BUNDLED_MODEL, ModelConfig
from aot.errors import ModelError
from aot.models.loading.default_model import KNOWN_MODELS
from aot.models.loading.hub import HubUnreachableError, Listing, is_cached, is_offline, list_files
from aot.runtime.paths import path_kind
from aot.text import did_you_mean

__all__ = ["is_here", "is_vetted", "location", "look_up"]


def location(config: ModelConfig) -> str:
    """Return the checkpoint's folder or its name on the hub, as loaders expect it."""
    if config.name == BUNDLED_MODEL:
        return str(files("aot.shapes") / "model")
    return str(Path(str(config.name)).expanduser()) if str(config.name).startswith("~") else str(config.name)


def is_here(config: ModelConfig) -> bool:
    """Return whether the checkpoint is a local folder, or complete in the hub's cache."""
    return path_kind(location(config)) == "folder" or is_cached(str(config.name), config.revision)


def is_vetted(config: ModelConfig) -> bool:
    """Return whether the model `config.name` may be loaded if a file, not the user, names it.

    The bundled model and models in the hub's cache may be loaded. A folder may not be loaded,
    because the author of the file may have put the folder there.
    """
    if config.name == BUNDLED_MODEL:
        return True
    return path_kind(location(config)) is None and is_cached(str(config.name), config.revision)


def look_up(config: ModelConfig) -> Listing | None:
    """Return the files to fetch before the checkpoint can be loaded.

    Return None if the checkpoint is on this machine, or in offline mode. Each request to
    the hub takes at most `aot.models.loading.hub.PATIENCE_S` seconds.

    Raises:
        ModelError: the folder or model does not exist, or the hub cannot be reached.
    """
    name = str(config.name)
    # 1. On this machine.
    _check_local(config)
    if is_here(config):
        return None
    # 2. Names without an owner are not on the hub.
    suggestion = did_you_mean(name, KNOWN_MODELS)
    if "/" not in name:
        raise ModelError(
            f"there is no folder {name} here, and model names on the hub have the form OWNER/NAME; "
            f"{suggestion or f'check --model, or use the bundled --model {BUNDLED_MODEL}'}"
        )
    # 3. In offline mode, the loaders search the cache and report missing files.
    if is_offline(config):
        return None
    try:
        # 4. The hub's answer. If the name is unknown, suggest a similar known name.
        return list_files(name, config.revision)
    except HubUnreachableError as error:
        remedy = f"check the network, pass a model folder, or use the bundled toy, --model {BUNDLED_MODEL}"
        problem = f"{name} is neither a local folder nor in the cache, and {error}"
        raise ModelError(f"{problem}; {suggestion or remedy}") from error
    except ModelError as error:
        raise ModelError(f"there is no folder {name} here, and {error}{suggestion and f'; {suggestion}'}") from error


def _check_local(config: ModelConfig) -> None:
    """Check that `config.name` is a model folder if it looks like a path; else raise ModelError."""
    # A path is local if it starts like a path, or if it exists.
    path = location(config)
    kind = path_kind(path)
    looks_local = kind is not None or path.startswith(("/", "./", "../"))
    if looks_local and kind is None:
        raise ModelError(f"there is no folder {config.name}; check the path")
    if looks_local and path_kind(Path(path, "config.json")) != "file":
        raise ModelError(f"{config.name} is not a model folder: there is no config.json in it")
