"""Allow only one run at a time in a folder of results."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aot.errors import OutputError

__all__ = ["locked", "removed_if_unused"]

_NAME = ".lock"
_LONGEST_NUMBER = 20
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # another process holds the lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` within the context.

    The operating system releases the lock when the process ends, also after a crash. The lock file
    remains and has no effect. On a file system without locks, the run continues without a lock.

    Raises:
        OutputError: If another run holds the lock, or `folder` is not writable.
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


@contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """Remove `folder` after an error in the context if it is new and nothing was written to it."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new and folder.is_dir() and {each.name for each in folder.iterdir()} <= {_NAME}:
            (folder / _NAME).unlink(missing_ok=True)
            folder.rmdir()
        raise


def _holder(path: Path) -> str:
    """Return " (process N)", where N is the id of the process with the lock; "" if unreadable."""
    try:
        with path.open("rb") as file:
            return f" (process {int(file.read(_LONGEST_NUMBER))})"
    except (OSError, ValueError):  # the lock also blocks reading, or nothing is written yet
        return ""


def _lock(file: BinaryIO) -> None:
    """Lock a file without waiting.

    Raises:
        OSError: If another process, or another handle of this process, holds the lock.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
