"""State every setting of a run's method and reduction, also those left at their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from aot.config.schema import Config
from aot.config.strict import build_settings
from aot.plugins import Kind, blamed, find, settings_class

__all__ = ["with_all_settings"]


def with_all_settings(config: Config) -> Config:
    """Return `config` with all settings of its method and of its reduction in the language model.

    A report of such a configuration still describes the run after a default has changed.

    Raises:
        ConfigError: If a setting is unknown or out of range.
    """
    inner = config.inner
    if inner.name is not None:
        inner = replace(inner, settings=_completed(inner.settings, inner.name, "inner", "inner.settings"))
    return replace(config, methods=_completed(config.methods, config.method, "methods", "methods"), inner=inner)


def _completed(given: Mapping[str, Mapping[str, Any]], name: str, kind: Kind, path: str) -> dict[str, Any]:
    """Return `given` with all settings of `name`, also those that it leaves out."""
    found = find(name, kind)
    cls = settings_class(found)
    if cls is None:
        return dict(given)
    with blamed(found, kind):
        built = build_settings(cls, given.get(name, {}), f"{path}.{name}.")
        # Fields of plug-ins may hold what no settings file can state.
        stated = {each.name: getattr(built, each.name) for each in fields(cls) if each.init}
    plain = {key: value for key, value in stated.items() if value is None or isinstance(value, str | int | float)}
    return {**given, name: plain} if plain else dict(given)
