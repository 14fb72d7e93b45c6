"""One run at a time in a folder of results."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aot.errors import OutputError

__all__ = ["locked"]

_NAME = ".lock"
_LONGEST_NUMBER = 20
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # what the systems say of a lock that another process holds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder while inside. The operating system releases the lock when its process ends, however it ends, so
    the file that stays behind means nothing. File systems without locks are written to all the same.

    Raises:
        OutputError: another run holds the folder, or it cannot be written to.
    """
    path = folder / _NAME
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD:
                raise OutputError(
                    f"another run{_holder(path)} writes to {folder}; wait until it ends, or choose another folder"
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f" (process {int(file.read(_LONGEST_NUMBER))})"
    except (OSError, ValueError):  # locked for reading too, or not written yet
        return ""


def _lock(file: BinaryIO) -> None:
    """Raise OSError if another process, or this one by another handle, holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
