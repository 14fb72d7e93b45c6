"""Where a checkpoint is: a folder, the hub's cache, or the hub. This never imports torch."""

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
    """Return a folder or a name on the hub, as the loaders take it."""
    if config.name == BUNDLED_MODEL:
        return str(files("aot.shapes") / "model")
    return str(Path(str(config.name)).expanduser()) if str(config.name).startswith("~") else str(config.name)


def is_here(config: ModelConfig) -> bool:
    """Return whether a checkpoint is a folder, or complete in the cache."""
    return path_kind(location(config)) == "folder" or is_cached(str(config.name), config.revision)


def is_vetted(config: ModelConfig) -> bool:
    """Return whether a model may be loaded just because a file names it.

    The bundled model may, and one that the user has fetched before. A folder may not: the author
    of the file may have put it there.
    """
    if config.name == BUNDLED_MODEL:
        return True
    return path_kind(location(config)) is None and is_cached(str(config.name), config.revision)


def look_up(config: ModelConfig) -> Listing | None:
    """Return the files to fetch before a checkpoint can be loaded.

    None means that it is here, or that the hub must not be asked. This takes no longer than
    `list_files`.

    Raises:
        ModelError: there is no such folder and no such model, or the hub cannot be reached.
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
    # 3. Offline, the loaders search the cache and report what it lacks.
    if is_offline(config):
        return None
    try:
        # 4. The hub's answer. Suggest a known name if this one looks like it.
        return list_files(name, config.revision)
    except HubUnreachableError as error:
        remedy = f"check the network, pass a model folder, or use the bundled toy, --model {BUNDLED_MODEL}"
        problem = f"{name} is neither a local folder nor in the cache, and {error}"
        raise ModelError(f"{problem}; {suggestion or remedy}") from error
    except ModelError as error:
        raise ModelError(f"there is no folder {name} here, and {error}{suggestion and f'; {suggestion}'}") from error


def _check_local(config: ModelConfig) -> None:
    """Check a path that is meant to be local, so that the hub is not asked for it."""
    # A path is local by its form, or because it exists.
    path = location(config)
    kind = path_kind(path)
    looks_local = kind is not None or path.startswith(("/", "./", "../"))
    if looks_local and kind is None:
        raise ModelError(f"there is no folder {config.name}; check the path")
    if looks_local and path_kind(Path(path, "config.json")) != "file":
        raise ModelError(f"{config.name} is not a model folder: there is no config.json in it")
