"""Temporary files that are removed even if their process is killed.

A process holds an operating system lock on each temporary file that it makes. The system releases
the lock when the process ends, even after `kill -9`. A temporary file without a lock is therefore
left over. The next run that makes a temporary file in the same folder removes it. Process ids
would not be reliable, because they restart in every container.
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
    """Yield the path of a new, empty file in `folder`; remove the file unless it was moved.

    First remove temporary files that killed runs of the same user left in `folder`. `mode` sets
    the permissions of the new file; the system clears the bits of the umask.

    Raises:
        OSError: If no file can be created in `folder`.
    """
    _remove_left_over(folder)
    path, descriptor = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}", None
    try:  # begins before the file exists: a signal may arrive right after its creation
        descriptor = _create(path, mode)
        yield path
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _create(path: Path, mode: int) -> int | None:
    """Create and lock the file `path`; return the locked descriptor, or None on Windows."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if sys.platform == "win32":  # Windows cannot move open files, so no locks are used
            os.close(descriptor)
            return None
        import fcntl

        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():  # no other run removed it before it was locked
            return descriptor
        os.close(descriptor)


def _remove_left_over(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX):
                with suppress(OSError):  # in use, owned by another user, or already removed
                    _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    """Remove the file `path` if this user owns it and no process has locked it.

    Raises:
        OSError: If the file is locked or cannot be opened.
    """
    if sys.platform == "win32":
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # do not wait if it is a pipe
    try:
        status = os.fstat(descriptor)
        if S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, path.lstat()):  # else its owner has made it anew since it was opened
                path.unlink()
    finally:
        os.close(descriptor)
