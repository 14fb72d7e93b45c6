"""Too little address space (`ulimit -v`, which job schedulers set too) is an error before libraries meet it: some end
the process without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__all__ = ["limit_of_process", "refuse_imports"]

_MIB = 2**20
# Measured with the builds for the CPU: a little above the least with which importing and using them works.
_NEEDED_BYTES = {"numpy": 400 * _MIB, "torch": 1000 * _MIB, "transformers": 1600 * _MIB}


def limit_of_process() -> int | None:
    """Return the most bytes of addresses this process may use; None where there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def refuse_imports(limit_bytes: int) -> None:
    """From now on raise MemoryError where a library is imported that needs more."""
    sys.meta_path.insert(0, _Gate(limit_bytes))


class _Gate(MetaPathFinder):
    """Finds nothing, and refuses what is too large."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """
        Raises:
            MemoryError: the limit is below what the module needs.
        """
        needed = _NEEDED_BYTES.get(fullname, 0)
        if self._limit_bytes < needed:
            has = f"this process has {self._limit_bytes // _MIB}"
            raise MemoryError(f"{fullname} needs {needed // _MIB} MiB of address space, and {has}")
