"""Read what classes declare without the libraries they compute with.

`aot methods` shows cards, settings and docstrings, which are in the modules of the methods, next to
mathematics in torch. Importing torch takes longer than all the rest. So these modules are imported
with a stand-in for it, of which nothing is computed, and are forgotten afterwards: what imports
them next gets them with the real torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

from aot.plugins import INNER, METHODS, Kind

__all__ = ["read_each", "without_torch"]

_HEAVY = ("torch", "triton", "numpy")

T = TypeVar("T")


def without_torch(read: Callable[[], T]) -> T:
    """Return what `read` finds in this package's methods, without importing torch."""
    if "torch" in sys.modules:
        return read()
    with _stand_ins():
        return read()


def read_each(wanted: Sequence[tuple[str, Kind]], describe: Callable[[str, Kind], T]) -> dict[tuple[str, Kind], T]:
    """Describe each by name and kind; torch is imported only if a plug-in does so."""
    tables = {"methods": METHODS, "inner": INNER}
    own = [each for each in wanted if each[0] in tables[each[1]]]
    found = without_torch(lambda: {each: describe(*each) for each in own})
    return {each: found[each] if each in found else describe(*each) for each in wanted}


class _Anything:
    """What a module may name on import: an attribute, a decorator, a part of a type."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: object, **named: object) -> _Anything:
        return self

    def __getitem__(self, key: object) -> _Anything:
        return self


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for every module of the heavy libraries."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if _is_of(name, _HEAVY) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)  # a package, since its specification says so

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


@contextmanager
def _stand_ins() -> Iterator[None]:
    finder, before = _Finder(), set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if _is_of(name, (*_HEAVY, "aot")):
                del sys.modules[name]


def _is_of(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
