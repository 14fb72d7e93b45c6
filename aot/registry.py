"""What can be chosen by name: methods and reductions of this package, and those that other packages plug in.

A plug-in is an entry point of the group `aot.methods` or `aot.inner`. Nothing is imported until it is built.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal

from aot.errors import ConfigError

__all__ = ["METHODS", "find", "names"]

Kind = Literal["methods"]

METHODS = MappingProxyType(
    {
        "none": "aot.methods.none:NoCompression",
        "random": "aot.methods.random:RandomTokens",
        "uniform": "aot.methods.uniform:Uniform",
        "attention": "aot.methods.attention:TopAttention",
        "frames": "aot.methods.frames:FewerFrames",
        "aot": "aot.methods.aot:AnchorTransport",
        "aot-dyn": "aot.methods.aot:DynamicAnchorTransport",
        "tome": "aot.methods.tome:ToMe",
        "tempme": "aot.methods.tempme:TempMe",
    }
)
_TABLES = {"methods": METHODS}


def names(kind: Kind = "methods") -> tuple[str, ...]:
    """Every name, this package's first."""
    return (*_TABLES[kind], *_plugged_in(kind))


def find(name: str, kind: Kind = "methods") -> Any:
    """The class behind a name.

    Raises:
        ConfigError: there is none of this name, or the package that brings it fails to import.
    """
    if name in _TABLES[kind]:
        module, _, attribute = _TABLES[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    plugged_in = _plugged_in(kind)
    if name not in plugged_in:
        raise ConfigError(f"there is no {kind.removesuffix('s')} {name!r} (valid: {', '.join(names(kind))})")
    try:
        return plugged_in[name].load()
    except Exception as error:  # whatever a stranger's module does at import
        raise ConfigError(f"the plug-in {name} cannot be loaded: {type(error).__name__}: {error}") from error


@cache
def _plugged_in(kind: Kind) -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=f"aot.{kind}")}
    return {name: found[name] for name in sorted(found) if name not in _TABLES[kind]}
