"""Provide the compression methods, one file each; `aot.plugins` maps names to classes."""

from __future__ import annotations

from typing import Any

from aot.compression.methods.base import Method
from aot.config.schema import Config
from aot.config.strict import build_settings
from aot.errors import ConfigError
from aot.plugins import Card, blamed, find, settings_class

__all__ = ["Card", "Method", "build_method", "check_method_settings", "make_method"]


def build_method(config: Config) -> Method:
    """Return the method `config.method` with its settings; if the ratio is 1, return `none`.

    Raises:
        ConfigError: If the method does not exist, or a setting is unknown or out of range.
        MethodError: If the method is a plug-in and its construction fails.
    """
    # Ratio 1 keeps every token, so the method would change nothing.
    name = config.method if config.compresses else "none"
    return make_method(find(name), config, name)


def check_method_settings(config: Config) -> None:
    """Check the settings of all methods, including methods that the run does not use.

    Raises:
        ConfigError: If a setting is unknown or out of range.
    """
    for name, settings in config.methods.items():
        kind = find(name)
        if (cls := settings_class(kind)) is not None:
            with blamed(kind):
                build_settings(cls, settings, f"methods.{name}.")


def make_method(kind: Any, config: Config, name: str) -> Method:
    """Return a method of the class `kind`, with the settings in `config.methods[name]`.

    If `kind` has no class method `from_config`, the fields of `kind` are the settings. Otherwise
    `from_config` receives the whole configuration, for example because the method needs the ratio
    before the encoder runs. If `kind` also has a dataclass `settings_type`, `from_config` also
    receives an instance of this dataclass; else the method takes no settings.

    Raises:
        ConfigError: If a setting is unknown or out of range.
        MethodError: If `kind` is a plug-in and its construction fails.
    """
    settings, path, cls = config.methods.get(name, {}), f"methods.{name}.", settings_class(kind)
    made: Method
    with blamed(kind):
        if not hasattr(kind, "from_config"):
            made = build_settings(kind, settings, path)
        elif cls is not None:
            made = kind.from_config(config, build_settings(cls, settings, path))
        elif settings:
            raise ConfigError(f"methods.{name} takes no settings; the settings of AOT are under aot")
        else:
            made = kind.from_config(config)
    return made
