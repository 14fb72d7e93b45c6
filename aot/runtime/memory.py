"""Report the memory of the process, and turn any out-of-memory failure into one error."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aot.errors import MemoryLimitError

__all__ = ["explained_memory", "held_bytes", "is_out_of_memory", "peak_bytes"]

_STATUS = Path("/proc/self/status")  # some containers lack it, some sandboxes lack the peak
_PHRASES = (
    "can't allocate memory",
    "you tried to allocate",
    "out of memory",
    "Cannot allocate memory",
    "failed to map segment",  # of a shared library
    "can't start new thread",  # there is no space for its stack
)


def peak_bytes() -> int | None:
    """Return the peak main memory of this process; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        return _status_bytes("VmHWM")  # ru_maxrss would include memory of the parent process
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_bytes() -> int | None:
    """Return the main memory this process holds now; None unless Linux reports it."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of any library means that memory was insufficient."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch may not be importable
        return True
    return any(phrase in str(error) for phrase in _PHRASES)


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn an out-of-memory failure of any kind into an error with a remedy.

    Raises:
        MemoryLimitError: If the code inside the context runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            "out of memory; use fewer --frames, a smaller --encode-batch, --dtype bfloat16, or a smaller model"
        ) from error
