"""What can be chosen by name: methods and reductions of this package, and those that other packages plug in.

A plug-in is an entry point of the group `aot.methods` or `aot.inner`. Nothing is imported until it is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal

from aot.errors import ConfigError

__all__ = ["INNER", "METHODS", "Card", "find", "names"]

Kind = Literal["methods", "inner"]


@dataclass(frozen=True, slots=True)
class Card:
    """What something of the registry says of itself in `aot methods`.

    acts: where, for instance "after pooling". source: the paper; empty for a baseline. exact: whether any budget
    is met to the token. remark: what a user must know, for instance the least ratio.
    """

    acts: str
    source: str = ""
    exact: bool = True
    remark: str = ""


METHODS = MappingProxyType(
    {
        "none": "aot.methods.none:NoCompression",
        "random": "aot.methods.random:RandomTokens",
        "uniform": "aot.methods.uniform:Uniform",
        "attention": "aot.methods.attention:TopAttention",
        "frames": "aot.methods.frames:FewerFrames",
        "aot": "aot.methods.aot:AnchorTransport",
        "aot-dyn": "aot.methods.aot:DynamicAnchorTransport",
        "standout": "aot.methods.standout:Standout",
        "fastvid": "aot.methods.fastvid:FastVid",
        "flashvid": "aot.methods.flashvid:FlashVid",
        "holitom": "aot.methods.holitom:HoliTom",
        "prunevid": "aot.methods.prunevid:PruneVid",
        "vidcom2": "aot.methods.vidcom2:VidCom2",
        "evs": "aot.methods.evs:EfficientVideoSampling",
        "dycoke": "aot.methods.dycoke:DyCoke",
        "visionzip": "aot.methods.visionzip:VisionZip",
        "prumerge": "aot.methods.prumerge:PruMerge",
        "simplecluster": "aot.methods.simplecluster:SimpleCluster",
        "vqtoken": "aot.methods.vqtoken:VQToken",
        "tome-pooled": "aot.methods.tome_pooled:PooledTokenMerging",
        "unified-stc": "aot.methods.unified_stc:UnifiedSpatiotemporal",
        "framefusion": "aot.methods.framefusion:FrameFusion",
        "tome": "aot.methods.tome:ToMe",
        "tempme": "aot.methods.tempme:TempMe",
    }
)
INNER = MappingProxyType(
    {
        "fastv": "aot.inner.fastv:FastV",
        "pyramiddrop": "aot.inner.pyramiddrop:PyramidDrop",
        "holitom": "aot.inner.holitom:HoliTomInner",
        "prunevid": "aot.inner.prunevid:PruneVidInner",
        "flashvid": "aot.inner.flashvid:FlashVidInner",
        "framefusion": "aot.inner.framefusion:FrameFusion",
    }
)
_TABLES = {"methods": METHODS, "inner": INNER}
_NOUNS = {"methods": "method", "inner": "inner reduction"}


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
        raise ConfigError(f"there is no {_NOUNS[kind]} {name!r} (valid: {', '.join(names(kind))})")
    try:
        return plugged_in[name].load()
    except Exception as error:  # whatever a stranger's module does at import
        raise ConfigError(f"the plug-in {name} cannot be loaded: {type(error).__name__}: {error}") from error


@cache
def _plugged_in(kind: Kind) -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=f"aot.{kind}")}
    return {name: found[name] for name in sorted(found) if name not in _TABLES[kind]}
