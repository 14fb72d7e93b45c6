"""How tokens become fewer: one file per method; `aot.plugins` names them."""

from __future__ import annotations

from typing import Any

from aot.compression.methods.base import Method
from aot.config.schema import Config
from aot.config.strict import build_settings
from aot.errors import ConfigError
from aot.plugins import Card, blamed, find

__all__ = ["Card", "Method", "build_method", "make_method"]


def build_method(config: Config) -> Method:
    """The method `config` asks for, made of its settings; ratio 1 always means none.

    Raises:
        ConfigError: there is no such method, or a setting of it is unknown or out of range.
        MethodError: the method is a plug-in and fails while it is made.
    """
    name = config.method if config.compresses else "none"
    return make_method(find(name), config, name)


def make_method(kind: Any, config: Config, name: str) -> Method:
    """Make a method of the class `kind`, with the settings that `config` has for `name`.

    A class with `from_config` is made of the whole configuration (it must know the ratio before the encoder runs, say);
    one with `settings_type` too, a dataclass, also gets the settings of its own.

    Raises:
        ConfigError, MethodError: as `build_method`.
    """
    settings, path = config.methods.get(name, {}), f"methods.{name}."
    made: Method
    with blamed(kind):
        if not hasattr(kind, "from_config"):
            made = build_settings(kind, settings, path)
        elif hasattr(kind, "settings_type"):
            made = kind.from_config(config, build_settings(kind.settings_type, settings, path))
        elif settings:
            raise ConfigError(f"methods.{name} has no settings of its own; those of {name} are under aot")
        else:
            made = kind.from_config(config)
    return made
