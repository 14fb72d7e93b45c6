"""Where a checkpoint is: a folder, in the hub's cache, or on the hub. Importing this does not import torch."""

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
    """Return where the loaders look: a folder, or an id of the hub."""
    if config.name == BUNDLED_MODEL:
        return str(files("aot.shapes") / "model")
    return str(Path(str(config.name)).expanduser()) if str(config.name).startswith("~") else str(config.name)


def is_here(config: ModelConfig) -> bool:
    """Return whether a checkpoint is on this machine: a folder, or whole in the cache."""
    return path_kind(location(config)) == "folder" or is_cached(str(config.name), config.revision)


def is_vetted(config: ModelConfig) -> bool:
    """Return whether a model may be loaded because a file names it: the bundled one, or one that the user has once
    fetched. A folder may not: whoever made the file may have put it there.
    """
    if config.name == BUNDLED_MODEL:
        return True
    return path_kind(location(config)) is None and is_cached(str(config.name), config.revision)


def look_up(config: ModelConfig) -> Listing | None:
    """Return what is to be fetched of a checkpoint before it can be loaded; None if it is a folder, is cached, or the
    hub is not to be asked. Takes as long as `list_files` at most.

    Raises:
        ModelError: there is no such folder and no such model, or the hub cannot be reached.
    """
    name = str(config.name)
    _check_local(config)
    if is_here(config):
        return None
    suggestion = did_you_mean(name, KNOWN_MODELS)
    if "/" not in name:
        raise ModelError(
            f"there is no folder {name} here, and models of the hub are called OWNER/NAME; "
            f"{suggestion or f'check --model, or use the bundled --model {BUNDLED_MODEL}'}"
        )
    if is_offline(config):
        return None  # the loaders look through the cache, and say what it lacks
    try:
        return list_files(name, config.revision)
    except HubUnreachableError as error:
        remedy = f"check the network, pass a model folder, or use the bundled toy, --model {BUNDLED_MODEL}"
        told = f"{name} is neither a folder here nor in the cache, and {error}"
        raise ModelError(f"{told}; {suggestion or remedy}") from error
    except ModelError as error:
        raise ModelError(f"there is no folder {name} here, and {error}{suggestion and f'; {suggestion}'}") from error


def _check_local(config: ModelConfig) -> None:
    """A path that is meant to be local should not be looked up on the hub."""
    path = location(config)
    kind = path_kind(path)
    looks_local = kind is not None or path.startswith(("/", "./", "../"))
    if looks_local and kind is None:
        raise ModelError(f"there is no folder {config.name}; check the path")
    if looks_local and path_kind(Path(path, "config.json")) != "file":
        raise ModelError(f"{config.name} is not a model folder: there is no config.json in it")
