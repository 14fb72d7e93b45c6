"""Collect the settings that the user gave: AOT_* variables, flags and --set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from aot.config.layers import Layer, build_layers, explained
from aot.config.presets import parse_yaml
from aot.config.schema import Config
from aot.config.sources import resolve_layers
from aot.config.strict import Settings, merge_settings, nested
from aot.errors import ConfigError
from aot.text import did_you_mean

__all__ = ["Given", "assigned_layer", "unknown_variables"]

_OF_PYTORCH = ("AOT_INDUCTOR_", "AOT_PARTITIONER_")


@dataclass(frozen=True)
class Given:
    """The settings from AOT_* variables, flags and --set; `config` adds files and defaults."""

    variables: Layer
    flags: Layer
    assigned: Layer

    @property
    def settings(self) -> Settings:
        """Return the settings of all layers, merged."""
        return merge_settings(*(layer.settings for layer in self._layers))

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return (self.variables, self.flags, self.assigned)

    def is_typed(self, path: str) -> bool:
        """Return whether a flag or --set gives a value to the setting `path`."""
        return self.flags.has(path) or self.assigned.has(path)

    @cached_property
    def resolved(self) -> Config:
        """Return the configuration from all sources: user, preset, files and defaults.

        Raises:
            ConfigError: If a value is wrong; the message lists all problems and their sources.
        """
        return self.config({})

    def config(self, base: Settings) -> Config:
        """Return the configuration; the preset, files and settings of the user override `base`."""
        return build_layers(self.layers(base))

    def layers(self, base: Settings | None = None) -> list[Layer]:
        """Return all layers, the lowest priority first.

        The order is: model, `base`, preset, file, AOT_* variables, flags, --set.

        Raises:
            ConfigError: If a file is not valid YAML, or the preset does not exist.
        """
        return resolve_layers(self._layers, base=base)

    def explained(self, error: ConfigError) -> ConfigError:
        """Return `error` with the source of each wrong value in its message."""
        if all(isinstance(problem, str) for problem in error.problems):
            return error
        return explained(error, self.layers())


def assigned_layer(texts: Sequence[str], source: str) -> Layer:
    """Return a layer of the settings in `texts`; each text is PATH=VALUE with a YAML value.

    Raises:
        ConfigError: If a text has no `=`, a value is not YAML, or a path is inside a group that
            already has a value.
    """
    values: dict[str, object] = {}
    for text in texts:
        path, value = _assignment(text, source)
        for group in _groups(path):
            if group in values:
                raise ConfigError(f"{source}: {group} already has a value, so {path} cannot be set; remove one of them")
        values[path] = value
    return Layer(nested(values), source)


def _groups(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _assignment(text: str, source: str) -> tuple[str, object]:
    path, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"{source}: {text} is not PATH=VALUE, for example aot.clips.frames=8")
    return path.strip(), parse_yaml(value, f"{source}: the value in {text}")


def unknown_variables(environment: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return a note for each AOT_* name in `environment` that is not in `known`."""
    unknown = (name for name in environment if name.startswith("AOT_") and name not in known)
    return [
        "; ".join(filter(None, [f"the variable {name} is unknown to aot", did_you_mean(name, known, most=1)]))
        for name in sorted(unknown)
        if not name.startswith(_OF_PYTORCH)
    ]
