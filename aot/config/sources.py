"""Order the sources of settings: flag > AOT_* variable > ./aot.yaml > preset > model > default.

The command line reads flags and variables; this module reads files and orders the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aot.config.layers import Layer, build_layers, explained
from aot.config.presets import parse_settings, preset_settings, read_settings_text
from aot.config.schema import BUNDLED_MODEL, Config, model_settings
from aot.config.strict import Settings, merge_settings
from aot.errors import ConfigError

__all__ = ["SETTINGS_FILE", "resolve_config", "resolve_layers", "settings_in_file"]

SETTINGS_FILE = "aot.yaml"


def resolve_config(
    overrides: Settings, preset: str | None = None, *, folder: Path | None = None, base: Settings | None = None
) -> Config:
    """Build the configuration: `overrides` > `folder`/aot.yaml > `preset` > `base` > defaults.

    A > B means that A overrides B. If `preset` is None, aot.yaml may name a preset under the key
    `preset`.

    Raises:
        ConfigError: If a file is not valid YAML, or its settings are unknown or out of range.
    """
    named = Layer({"preset": preset} if preset else {})
    return build_layers(resolve_layers([named, Layer(overrides)], folder=folder, base=base))


def resolve_layers(
    overrides: Sequence[Layer], *, folder: Path | None = None, base: Settings | None = None
) -> list[Layer]:
    """Return all layers in order: model, `base`, preset, `folder`/aot.yaml, `overrides`.

    Later layers override earlier ones. The model layer holds the result of `model_settings`. The
    preset is named by the key `preset` of the last layer that has this key.

    Raises:
        ConfigError: If a file is not valid YAML, or the preset does not exist.
    """
    path = (folder or Path()) / SETTINGS_FILE
    layers = [Layer(settings_in_file(path) if path.is_file() else {}, str(path)), *overrides]
    names = [layer.settings["preset"] for layer in layers if layer.settings.get("preset")]
    try:
        of_preset = [Layer(preset_settings(names[-1]), f"preset {names[-1]}")] if names else []
    except ConfigError as error:
        raise explained(error, layers) from None
    above = [Layer(base or {}), *of_preset, *map(_without_preset, layers)]
    of_model = model_settings(merge_settings(*(layer.settings for layer in above)))
    return [Layer(of_model, f"model {BUNDLED_MODEL}"), *above]


def _without_preset(layer: Layer) -> Layer:
    settings = {key: value for key, value in layer.settings.items() if key != "preset"}
    return Layer(settings, layer.source, layer.names)


def settings_in_file(path: Path) -> Settings:
    """Return the settings in a YAML file.

    Raises:
        ConfigError: If the file cannot be read, is too long, or is not valid YAML.
    """
    return parse_settings(read_settings_text(path), str(path))
