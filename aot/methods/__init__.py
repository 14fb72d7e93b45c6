"""How tokens become fewer: one file per method, and the table that names them."""

from __future__ import annotations

from aot.config import Config
from aot.methods.base import Method

__all__ = ["Method", "build_method"]


def build_method(config: Config) -> Method:
    """The method `config` asks for; ratio 1 always means none."""
    if not config.compresses:
        from aot.methods.none import NoCompression

        return NoCompression()
    from aot.methods.aot import AnchorTransport

    return AnchorTransport(config.aot, config.ratio)
