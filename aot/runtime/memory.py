"""Report the memory of this process; raise one error type for all out-of-memory failures."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aot.errors import MemoryLimitError

__all__ = ["explained_memory", "held_bytes", "is_out_of_memory", "peak_bytes"]

_STATUS = Path("/proc/self/status")  # some containers lack this file; some sandboxes lack its VmHWM
_PHRASES = (
    "can't allocate memory",
    "you tried to allocate",
    "out of memory",
    "Cannot allocate memory",
    "failed to map segment",  # of a shared library
    "can't start new thread",  # no memory for its stack
)


def peak_bytes() -> int | None:
    """Return the peak host memory of this process in bytes, or None if it is not reported."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        return _status_bytes("VmHWM")  # ru_maxrss would include memory of the parent process
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_bytes() -> int | None:
    """Return the current host memory of this process in bytes, or None if not on Linux."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, raised by any library, reports insufficient memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which may not be importable
        return True
    return any(phrase in str(error) for phrase in _PHRASES)


@contextmanager
def explained_memory() -> Iterator[None]:
    """Convert any out-of-memory exception of the `with` block to a MemoryLimitError.

    Raises:
        MemoryLimitError: If the `with` block runs out of memory; the message has a remedy.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            "out of memory; use fewer --frames, a smaller --encode-batch, --dtype bfloat16, or a smaller model"
        ) from error
