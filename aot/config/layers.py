"""Merge the settings of several sources, and find the source of each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aot.config.schema import Config, build_config
from aot.config.strict import Settings, merge_settings
from aot.errors import ConfigError, Problem

__all__ = ["Layer", "build_layers", "explained", "source_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of one source.

    Attributes:
        settings: nested settings.
        source: name of the source, for instance "aot.yaml"; empty for values from Python.
        names: how the user named settings, for instance {"sampling.start_s": "--start"}.
    """

    settings: Settings
    source: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    def explain(self, problem: Problem) -> str:
        """Return `problem` as text for the user: "--start must ..." or "aot.yaml: ..."."""
        if problem.path in self.names:
            return str(replace(problem, path=self.names[problem.path]))
        return f"{self.source}: {problem}" if self.source else str(problem)

    def has(self, path: str) -> bool:
        """Return whether the layer sets the setting `path`, or any setting in the group `path`."""
        return _has(self.settings, path)


def build_layers(layers: Sequence[Layer]) -> Config:
    """Build the configuration from `layers`; later layers override earlier ones.

    Raises:
        ConfigError: See `build_config`; each problem names the source of the wrong value.
    """
    try:
        return build_config(merge_settings(*map(_one_way_to_sample, layers)))
    except ConfigError as error:
        raise explained(error, layers) from None


def explained(error: ConfigError, layers: Sequence[Layer]) -> ConfigError:
    """Return a copy of `error`; the last layer that sets a problem's path explains the problem."""
    return type(error)(*(_explain(problem, layers) for problem in error.problems))


def source_of(path: str, layers: Sequence[Layer]) -> str:
    """Return the source of the value at `path`: for instance "--frames", "aot.yaml", "default"."""
    deciding = [path]
    if path == "sampling.fps" and any(layer.has(path) for layer in layers):
        deciding.append("sampling.frames")  # `frames` resets the `fps` of earlier layers
    for layer in reversed(layers):
        for each in deciding:
            if layer.has(each):
                return layer.names.get(each, layer.source)
    return "default"


def _explain(problem: str | Problem, layers: Sequence[Layer]) -> str | Problem:
    if isinstance(problem, str):
        return problem
    source = next((layer for layer in reversed(layers) if layer.has(problem.path)), None)
    return source.explain(problem) if source else problem


def _has(settings: Settings, path: str) -> bool:
    for key, value in settings.items():
        if path == str(key):
            return True
        if isinstance(value, Mapping) and path.startswith(f"{key}.") and _has(value, path.removeprefix(f"{key}.")):
            return True
    return False


def _one_way_to_sample(layer: Layer) -> Mapping[str, Any]:
    """Return the settings of `layer`; if they set `frames`, also reset `fps` of earlier layers.

    Raises:
        ConfigError: If `layer` sets both `frames` and `fps`.
    """
    sampling = layer.settings.get("sampling")
    if not isinstance(sampling, Mapping) or "frames" not in sampling:
        return layer.settings
    if sampling.get("fps") is not None:
        fps = layer.names.get("sampling.fps", "sampling.fps")
        twice = Problem("sampling.frames", f"and {fps} exclude each other; give one")
        raise ConfigError(layer.explain(twice))
    return {**layer.settings, "sampling": {**sampling, "fps": None}}
