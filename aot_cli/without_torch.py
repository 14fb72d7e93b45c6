"""Read what the classes of methods declare, without importing torch.

`aot methods` shows cards, settings and docstrings. The modules of methods also import torch, which
takes longer than everything else. The functions here import the modules of methods with an empty
replacement for torch and remove them afterwards; the next import loads them with the real torch.
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
    """Return `read()`; during the call, imports of torch, triton and numpy give empty modules."""
    if "torch" in sys.modules:
        return read()
    with _replaced_modules():
        return read()


def read_each(wanted: Sequence[tuple[str, Kind]], describe: Callable[[str, Kind], T]) -> dict[tuple[str, Kind], T]:
    """Return `describe(*pair)` for each pair in `wanted`; import torch only for plug-ins."""
    tables = {"methods": METHODS, "inner": INNER}
    own = [each for each in wanted if each[0] in tables[each[1]]]
    found = without_torch(lambda: {each: describe(*each) for each in own})
    return {each: found[each] if each in found else describe(*each) for each in wanted}


class _Anything:
    """An object that can be used as anything during an import: attribute, decorator or type."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: object, **named: object) -> _Anything:
        return self

    def __getitem__(self, key: object) -> _Anything:
        return self


class _Replacement(ModuleType):
    """An empty module that has every attribute."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Finder(MetaPathFinder, Loader):
    """An import hook that replaces all modules of torch, triton and numpy."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec for a module of torch, triton or numpy, otherwise None."""
        return ModuleSpec(name, self, is_package=True) if _is_of(name, _HEAVY) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module."""
        return _Replacement(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: an empty module has no code."""


@contextmanager
def _replaced_modules() -> Iterator[None]:
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
