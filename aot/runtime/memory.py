"""How much memory the process holds, and running out of it, told as one error whatever library noticed."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aot.errors import MemoryLimitError

__all__ = ["explained_memory", "held_bytes", "is_out_of_memory", "peak_bytes"]

_STATUS = Path("/proc/self/status")  # missing in some containers, and without a peak in some sandboxes
_PHRASES = (
    "can't allocate memory",
    "you tried to allocate",
    "out of memory",
    "Cannot allocate memory",
    "failed to map segment",  # of a shared library
    "can't start new thread",  # there is no space for its stack
)


def peak_bytes() -> int | None:
    """Return the most main memory this process has held; None where the system does not say."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        return _status_bytes("VmHWM")  # ru_maxrss begins with what the parent process held
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_bytes() -> int | None:
    """Return the main memory this process holds now; None where the system does not say. Linux only."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure of any library means that memory did not suffice."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch need not be imported, nor can it always be
        return True
    return any(phrase in str(error) for phrase in _PHRASES)


@contextmanager
def explained_memory() -> Iterator[None]:
    """
    Raises:
        MemoryLimitError: with a remedy, in place of an out-of-memory failure of any kind.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            "out of memory; use fewer --frames, a smaller --encode-batch, --dtype bfloat16, or a smaller model"
        ) from error
