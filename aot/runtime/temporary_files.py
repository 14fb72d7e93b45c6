"""Temporary files that are removed with their process, however it ends.

A process holds a lock of the operating system on each file it makes. The lock ends with the
process, even after `kill -9`. A file without a lock is left over; the next run that makes one in
the same folder removes it. Unlike process ids, which restart in every container, locks cannot be
confused.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

__all__ = ["temporary_file"]

_PREFIX, _SUFFIX = ".aot-", ".part"


@contextmanager
def temporary_file(folder: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """Yield a new, empty file in `folder`; it is removed afterwards unless it was moved.

    Files that killed runs of the same user left there are removed first. `mode` has the
    permissions, from which the system takes the umask.

    Raises:
        OSError: If no file can be made there.
    """
    _remove_left_over(folder)
    path, descriptor = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}", None
    try:  # begins before the file exists: a signal may arrive just after
        descriptor = _create(path, mode)
        yield path
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _create(path: Path, mode: int) -> int | None:
    """Make a file and return the descriptor that holds its lock; None on Windows."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if sys.platform == "win32":  # an open file cannot be moved there: no locks, no removal
            os.close(descriptor)
            return None
        import fcntl

        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():  # not removed by another run before it was locked
            return descriptor
        os.close(descriptor)


def _remove_left_over(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX):
                with suppress(OSError):  # in use, another user's, or gone meanwhile
                    _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    """Remove a file of this user that no process has locked.

    Raises:
        OSError: If it is locked or cannot be opened.
    """
    if sys.platform == "win32":
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe of that name must not block
    try:
        status = os.fstat(descriptor)
        if S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(descriptor)
