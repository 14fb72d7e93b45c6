"""What the user gave, one layer for each way to give it: AOT_* variables, flags, --set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from aot.config.layers import Layer, build_layers, explained
from aot.config.presets import parse_yaml
from aot.config.schema import Config
from aot.config.sources import resolve_layers
from aot.config.strict import Settings, merge_settings
from aot.errors import ConfigError
from aot.text import did_you_mean

__all__ = ["Given", "assigned_layer", "nested", "strange_variables"]

_OF_PYTORCH = ("AOT_INDUCTOR_", "AOT_PARTITIONER_")


@dataclass(frozen=True)
class Given:
    """What the user gave; `config` adds the files and the defaults."""

    variables: Layer
    flags: Layer
    assigned: Layer

    @property
    def settings(self) -> Settings:
        """All of it as one."""
        return merge_settings(*(layer.settings for layer in self._layers))

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return (self.variables, self.flags, self.assigned)

    def is_typed(self, path: str) -> bool:
        """Return whether the command line itself gives a value to a setting."""
        return self.flags.has(path) or self.assigned.has(path)

    @cached_property
    def resolved(self) -> Config:
        """Return the configuration of all sources, which are read once.

        Raises:
            ConfigError: If a value is wrong; it lists every problem with its source.
        """
        return self.config({})

    def config(self, base: Settings) -> Config:
        """Return the configuration on top of `base`, whose values everything else overrides."""
        return build_layers(self.layers(base))

    def layers(self, base: Settings | None = None) -> list[Layer]:
        """Return all layers, the weakest first: `base`, the files, and what was given.

        Raises:
            ConfigError: If a file is not valid YAML, or there is no such preset.
        """
        return resolve_layers(self._layers, base=base)

    def explained(self, error: ConfigError) -> ConfigError:
        """Return an error about the configuration in terms of where its values come from."""
        if all(isinstance(problem, str) for problem in error.problems):
            return error
        return explained(error, self.layers())


def nested(values: Mapping[str, object]) -> Settings:
    """Return values by path, as nested settings."""
    return merge_settings(*(_nest(path, value) for path, value in values.items()))


def _nest(path: str, value: object) -> Settings:
    first, _, rest = path.partition(".")
    return {first: _nest(rest, value) if rest else value}


def assigned_layer(texts: Sequence[str], source: str) -> Layer:
    """Return `PATH=VALUE` texts, the values in YAML, as a layer.

    Raises:
        ConfigError: a text has no `=`, a value is not YAML, or a group was given a value.
    """
    values: dict[str, object] = {}
    for text in texts:
        path, value = _assignment(text, source)
        for group in _groups(path):
            if group in values:
                raise ConfigError(f"{source}: {group} was given a value before, it is no group for {path} then")
        values[path] = value
    return Layer(nested(values), source)


def _groups(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _assignment(text: str, source: str) -> tuple[str, object]:
    path, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"{source}: {text} is not PATH=VALUE, for instance aot.clips.frames=8")
    return path.strip(), parse_yaml(value, f"{source}: the value in {text}")


def strange_variables(environment: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return a sentence for each AOT_* variable that means nothing, with a similar name."""
    strange = (name for name in environment if name.startswith("AOT_") and name not in known)
    return [
        "; ".join(filter(None, [f"the variable {name} means nothing to aot", did_you_mean(name, known, most=1)]))
        for name in sorted(strange)
        if not name.startswith(_OF_PYTORCH)
    ]
