"""Where settings come from: flag > AOT_* variable > ./aot.yaml > preset > default.

Flags and variables are the command line's business; here are the files and the merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.config import BUNDLED_MODEL, Config, build_config
from aot.errors import ConfigError
from aot.registry import did_you_mean
from aot.strict import Settings, merge_settings

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = ["SETTINGS_FILE", "model_settings", "preset_names", "preset_settings", "preset_text", "resolve_config"]

SETTINGS_FILE = "aot.yaml"


def preset_names() -> tuple[str, ...]:
    """Names for `--preset`, e.g. "paper/onevision-r10"."""
    return tuple(sorted(_names_in(_preset_folder())))


def preset_text(name: str) -> str:
    """The YAML of a preset, with the comments that name its source.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in preset_names():
        suggestion = did_you_mean(str(name), preset_names())
        valid = f" (valid: {', '.join(preset_names())})"
        raise ConfigError(f"there is no preset {name!r}{f'; {suggestion}' if suggestion else valid}")
    return (_preset_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of a preset.

    Raises:
        ConfigError: there is no such preset.
    """
    return _parse(preset_text(name), f"preset {name}")


def model_settings(name: str) -> dict[str, Any]:
    """What naming a model settles: the model, and for the bundled one what it was trained on."""
    return preset_settings(name) if name == BUNDLED_MODEL else {"model": {"name": name}}


def resolve_config(
    overrides: Settings, preset: str | None = None, *, folder: Path | None = None, base: Settings | None = None
) -> Config:
    """The full configuration: overrides over `folder`/aot.yaml over the preset over `base` over the defaults.

    aot.yaml may itself name a preset under the key `preset`.

    Raises:
        ConfigError: a file is not valid YAML, or settings in it are unknown or out of range.
    """
    path = (folder or Path()) / SETTINGS_FILE
    from_file = _parse(_read(path), str(path)) if path.is_file() else {}
    named = from_file.pop("preset", None)
    preset = preset or named
    from_preset = preset_settings(preset) if preset else {}
    layers = [_one_way_to_sample(layer) for layer in (base or {}, from_preset, from_file, overrides)]
    return build_config(merge_settings(*layers))


def _one_way_to_sample(layer: Settings) -> Settings:
    """A layer that sets `frames` undoes an `fps` set below it.

    Raises:
        ConfigError: the layer sets both.
    """
    sampling = layer.get("sampling")
    if not isinstance(sampling, Mapping) or "frames" not in sampling:
        return layer
    if sampling.get("fps") is not None:
        raise ConfigError("--frames and --fps are two ways to say the same; give one")
    return {**layer, "sampling": {**sampling, "fps": None}}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{origin} must hold settings as `key: value` lines")
    return content


def _preset_folder() -> Traversable:
    packaged = files("aot") / "presets"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "presets"


def _names_in(folder: Traversable, prefix: str = "") -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.is_dir():
            names += _names_in(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            names.append(prefix + entry.name.removesuffix(".yaml"))
    return names
