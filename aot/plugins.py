"""Find the methods and inner reductions of this package and of plug-ins by name.

A plug-in is an entry point of another package in the group `aot.methods` or `aot.inner`. Classes
are imported only when they are requested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal

from aot.errors import AOTError, ConfigError, MethodError
from aot.text import did_you_mean, similar_names

__all__ = [
    "INNER",
    "METHODS",
    "Card",
    "Kind",
    "blamed",
    "broken_promise",
    "called",
    "find",
    "hint",
    "is_plugged_in",
    "names",
    "settings_class",
    "unheard_plug_ins",
    "usable",
]

Kind = Literal["methods", "inner"]


@dataclass(frozen=True, slots=True)
class Card:
    """Hold what `aot methods` shows about a method or an inner reduction.

    Attributes:
        acts: where the method acts, for instance "after pooling".
        source: the paper; empty for a baseline.
        exact: whether the method always keeps exactly as many tokens as the budget.
        remark: which tokens are kept and merged, in one clause.
        least: the lowest possible ratio, as text; empty if every ratio is possible.
    """

    acts: str
    source: str = ""
    exact: bool = True
    remark: str = ""
    least: str = ""


METHODS = MappingProxyType(
    {
        "none": "aot.compression.methods.none:NoCompression",
        "random": "aot.compression.methods.random:RandomTokens",
        "uniform": "aot.compression.methods.uniform:Uniform",
        "attention": "aot.compression.methods.attention:TopAttention",
        "frames": "aot.compression.methods.frames:FewerFrames",
        "aot": "aot.compression.aot.method:AnchorTransport",
        "aot-dyn": "aot.compression.aot.method:DynamicAnchorTransport",
        "standout": "aot.compression.methods.standout:Standout",
        "floc": "aot.compression.methods.floc:FLoC",
        "vcast": "aot.compression.methods.vcast:VCast",
        "earlytom": "aot.compression.methods.earlytom:EarlyTom",
        "fastvid": "aot.compression.methods.fastvid:FastVid",
        "flashvid": "aot.compression.methods.flashvid:FlashVid",
        "holitom": "aot.compression.methods.holitom:HoliTom",
        "prunevid": "aot.compression.methods.prunevid:PruneVid",
        "vidcom2": "aot.compression.methods.vidcom2:VidCom2",
        "evs": "aot.compression.methods.evs:EfficientVideoSampling",
        "dycoke": "aot.compression.methods.dycoke:DyCoke",
        "visionzip": "aot.compression.methods.visionzip:VisionZip",
        "prumerge": "aot.compression.methods.prumerge:PruMerge",
        "echoprune": "aot.compression.methods.echoprune:EchoPrune",
        "ottvid": "aot.compression.methods.ottvid:OTTVid",
        "kitoke": "aot.compression.methods.kitoke:KiToke",
        "simplecluster": "aot.compression.methods.simplecluster:SimpleCluster",
        "vqtoken": "aot.compression.methods.vqtoken:VQToken",
        "tome-pooled": "aot.compression.methods.tome_pooled:PooledTokenMerging",
        "unified-stc": "aot.compression.methods.unified_stc:UnifiedSpatiotemporal",
        "framefusion": "aot.compression.methods.framefusion:FrameFusion",
        "tome": "aot.compression.methods.tome:ToMe",
        "tempme": "aot.compression.methods.tempme:TempMe",
    }
)
INNER = MappingProxyType(
    {
        "fastv": "aot.compression.in_llm.fastv:FastV",
        "pyramiddrop": "aot.compression.in_llm.pyramiddrop:PyramidDrop",
        "holitom": "aot.compression.in_llm.holitom:HoliTomInner",
        "prunevid": "aot.compression.in_llm.prunevid:PruneVidInner",
        "flashvid": "aot.compression.in_llm.flashvid:FlashVidInner",
        "framefusion": "aot.compression.in_llm.framefusion:FrameFusion",
    }
)
_TABLES = {"methods": METHODS, "inner": INNER}
_NOUNS = {"methods": "method", "inner": "inner reduction"}
_CALLED = {"methods": ("compress",), "inner": ("load", "with_load", "points", "reduce")}


def names(kind: Kind = "methods") -> tuple[str, ...]:
    """Return all names of `kind`, this package's first; plug-ins are not imported or checked."""
    return (*_TABLES[kind], *_plugged_in(kind))


def usable(kind: Kind = "methods") -> tuple[str, ...]:
    """Import every plug-in; return all names of `kind` except those of invalid plug-ins."""
    return (*_TABLES[kind], *(name for name in _plugged_in(kind) if _is_usable(name, kind)))


def _is_usable(name: str, kind: Kind) -> bool:
    try:
        find(name, kind)
    except ConfigError:
        return False
    return True


def find(name: str, kind: Kind = "methods") -> Any:
    """Return the class of the method or inner reduction `name`.

    Raises:
        ConfigError: If `name` is unknown, or if its plug-in cannot be imported or is not a valid
            class.
    """
    if name in _TABLES[kind]:
        module, _, attribute = _TABLES[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    if name not in _plugged_in(kind):
        raise ConfigError(f"there is no {_NOUNS[kind]} {name!r}; {hint(name, kind)}")
    return _load(_plugged_in(kind)[name], kind)


def settings_class(found: Any) -> Any:
    """Return the dataclass of the settings of the class `found`, or None if it has no settings.

    Without a class method `from_config`, the fields of `found` are the settings.
    """
    return getattr(found, "settings_type", None) if hasattr(found, "from_config") else found


def hint(name: str, kind: Kind = "methods") -> str:
    """Return advice for an unknown `name`: how to use it as the other kind, or a similar name."""
    other: Kind = "inner" if kind == "methods" else "methods"
    if name in names(other):
        return f"{name} {_how_to_ask(name, other)}"
    suggestion = did_you_mean(name, names(kind))
    if suggestion:
        return suggestion
    alike = similar_names(name, names(other), most=1)
    return f"did you mean {alike[0]}? It {_how_to_ask(alike[0], other)}" if alike else "`aot methods` lists them"


def _how_to_ask(name: str, kind: Kind) -> str:
    """Return a clause that states where the method `name` acts and which flag selects it."""
    if kind == "inner":
        return f"acts inside the language model: --inner {name}, or none+{name} in a list of methods"
    return f"acts before the language model: --method {name}"


def unheard_plug_ins(kind: Kind = "methods") -> list[str]:
    """Return a sentence for each plug-in that is ignored, because its name is already in use."""
    used = set(_plugged_in(kind).values())
    return [
        f"the plug-in {_origin(point)} is not used: another {_NOUNS[kind]} has this name, rename its entry point"
        for point in entry_points(group=f"aot.{kind}")
        if point not in used
    ]


def is_plugged_in(thing: object, kind: Kind = "methods") -> bool:
    """Return whether `thing` (method, inner reduction or its class) is from another package."""
    return _plug_in_of(thing, kind) is not None


def called(thing: object, kind: Kind = "methods") -> str:
    """Return the name of `thing` (method, inner reduction or its class) for messages.

    The name of a plug-in includes its package and version.
    """
    point = _plug_in_of(thing, kind)
    if point is not None:
        return f"the plug-in {_origin(point)}"
    # A class that is not in the tables has the name of its nearest base class that is.
    classes = _class_of(thing).__mro__
    own = {where: name for name, where in _TABLES[kind].items()}
    paths = (f"{cls.__module__}:{cls.__qualname__}" for cls in classes)
    return next((own[path] for path in paths if path in own), classes[0].__qualname__)


def broken_promise(thing: object, kind: Kind, *problems: str) -> MethodError:
    """Return an error stating how `thing` breaks its contract; each of `problems` is a clause."""
    report = "report this to its authors" if is_plugged_in(thing, kind) else "report this"
    return MethodError(f"{called(thing, kind)} {'; it '.join(problems)}; use another {_NOUNS[kind]}, and {report}")


@contextmanager
def blamed(thing: object, kind: Kind = "methods") -> Iterator[None]:
    """Convert an exception from the code of a plug-in to an error that names the plug-in.

    If `thing` is from this package, exceptions are not changed.

    Raises:
        MethodError: If `thing` is from another package and the `with` block fails.
    """
    try:
        yield
    except AOTError:
        raise
    except Exception as error:
        if not is_plugged_in(thing, kind):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise MethodError(
            f"{called(thing, kind)} failed ({reason}); update or uninstall the package, or report this to its authors "
            "(--debug shows where)"
        ) from error


def _class_of(thing: object) -> type:
    return thing if isinstance(thing, type) else type(thing)


def _plug_in_of(thing: object, kind: Kind) -> EntryPoint | None:
    """Return the entry point of the plug-in to which `thing` belongs, or None.

    If the class of `thing` has no entry point, take the first one of the same top-level package.
    """
    cls = _class_of(thing)
    root = cls.__module__.partition(".")[0]
    near = [point for point in _plugged_in(kind).values() if point.module.partition(".")[0] == root]
    return next(
        (point for point in near if point.value == f"{cls.__module__}:{cls.__qualname__}"), next(iter(near), None)
    )


def _load(point: EntryPoint, kind: Kind) -> Any:
    """Import the object of a plug-in and check that it is a valid class.

    Raises:
        ConfigError: If the import fails, or the object is not a method or an inner reduction.
    """
    remedy = "fix, update or uninstall the package"
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # importing foreign code can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"the plug-in {_origin(point)} cannot be loaded: {reason}; {remedy}") from error
    for problem in _problems(found, kind):
        raise ConfigError(f"the plug-in {_origin(point)} is no {_NOUNS[kind]}: {point.value} {problem}; {remedy}")
    return found


def _problems(found: Any, kind: Kind) -> Iterator[str]:
    """Yield each way in which `found` breaks the protocol of a method or inner reduction."""
    if not isinstance(found, type):
        yield f"is a {type(found).__name__}, not a class"
        return
    if not isinstance(getattr(found, "card", None), Card):
        yield "has no card (aot.compression.methods.Card)"
    for name in _CALLED[kind]:
        if not callable(getattr(found, name, None)):
            yield f"has no {name}()"
    if kind == "methods" and not hasattr(found, "needs"):
        yield "has no needs (a property or class attribute)"
    settings = settings_class(found)
    if settings is not None:
        yield from _problems_of_settings(settings)


def _problems_of_settings(settings: Any) -> Iterator[str]:
    if not is_dataclass(settings):
        yield "has no settings: it is no dataclass"
        return
    for field in fields(settings):
        if field.init and field.default is MISSING and field.default_factory is MISSING:
            yield f"has the setting {field.name} without a default"


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
    return f"{point.name} of the package {package}"


@cache
def _plugged_in(kind: Kind) -> dict[str, EntryPoint]:
    """Return the plug-ins of `kind` by name; ignore names of this package and repeated names."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"aot.{kind}"):
        if point.name not in _TABLES[kind]:
            found.setdefault(point.name, point)
    return dict(sorted(found.items()))
