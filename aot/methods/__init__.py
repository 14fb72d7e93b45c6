"""How tokens become fewer: one file per method; `aot.registry` names them."""

from __future__ import annotations

from aot.config import Config, build_settings
from aot.errors import ConfigError
from aot.methods.base import Method, MethodCard
from aot.registry import find

__all__ = ["Method", "MethodCard", "build_method"]


def build_method(config: Config) -> Method:
    """The method `config` asks for, made of its settings; ratio 1 always means none.

    Raises:
        ConfigError: there is no such method, or a setting of it is unknown or out of range.
    """
    name = config.method if config.compresses else "none"
    kind, settings = find(name), config.methods.get(name, {})
    if hasattr(kind, "from_config"):
        if settings:
            raise ConfigError(f"methods.{name} has no settings of its own; those of {name} are under aot")
        method: Method = kind.from_config(config)
        return method
    built: Method = build_settings(kind, settings, f"methods.{name}.")
    return built
