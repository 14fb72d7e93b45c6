"""How tokens become fewer: one file per method; `aot.registry` names them."""

from __future__ import annotations

from aot.config import Config
from aot.errors import ConfigError
from aot.methods.base import Method
from aot.registry import Card, find
from aot.strict import build_settings

__all__ = ["Card", "Method", "build_method"]


def build_method(config: Config) -> Method:
    """The method `config` asks for, made of its settings; ratio 1 always means none.

    A class with `from_config` is made of the whole configuration (it must know the ratio before the encoder runs, say);
    one with `settings_type` too, a dataclass, also gets the settings of its own.

    Raises:
        ConfigError: there is no such method, or a setting of it is unknown or out of range.
    """
    name = config.method if config.compresses else "none"
    kind, settings, path = find(name), config.methods.get(name, {}), f"methods.{name}."
    made: Method
    if not hasattr(kind, "from_config"):
        made = build_settings(kind, settings, path)
    elif hasattr(kind, "settings_type"):
        made = kind.from_config(config, build_settings(kind.settings_type, settings, path))
    elif settings:
        raise ConfigError(f"methods.{name} has no settings of its own; those of {name} are under aot")
    else:
        made = kind.from_config(config)
    return made
