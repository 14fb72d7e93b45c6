"""Report too little address space as an error, before an import ends the process without a message.

The limit is set with `ulimit -v`, or by a job scheduler.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__all__ = ["limit_of_process", "refuse_imports"]

_MIB = 2**20
# Bytes to import and use each library, measured with CPU builds and rounded up.
_NEEDED_BYTES = {"numpy": 400 * _MIB, "torch": 1000 * _MIB, "transformers": 1600 * _MIB}


def limit_of_process() -> int | None:
    """Return the limit of this process's address space in bytes, or None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def refuse_imports(limit_bytes: int) -> None:
    """Make the import of a library that needs more than `limit_bytes` raise MemoryError."""
    sys.meta_path.insert(0, _Gate(limit_bytes))


class _Gate(MetaPathFinder):
    """An import hook that refuses libraries above the limit and finds no module itself."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Return None, so that other finders import the module.

        Raises:
            MemoryError: If the module needs more address space than the limit.
        """
        needed = _NEEDED_BYTES.get(fullname, 0)
        if self._limit_bytes < needed:
            has = f"this process has {self._limit_bytes // _MIB}"
            raise MemoryError(f"{fullname} needs {needed // _MIB} MiB of address space, and {has}")
