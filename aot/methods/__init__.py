"""How tokens become fewer: one file per method, and the table that names them."""

from __future__ import annotations

from aot.config import Config
from aot.errors import ConfigError
from aot.methods.base import Method

__all__ = ["METHODS", "Method", "build_method"]

METHODS = ("aot", "none")


def build_method(config: Config) -> Method:
    """The method `config` asks for; ratio 1 always means none.

    Raises:
        ConfigError: there is no such method.
    """
    if config.method not in METHODS:
        raise ConfigError(f"unknown method {config.method!r} (valid: {', '.join(METHODS)})")
    if config.method == "none" or config.ratio == 1:
        from aot.methods.none import NoCompression

        return NoCompression()
    from aot.methods.aot import AnchorTransport

    return AnchorTransport(config.aot, config.ratio)
