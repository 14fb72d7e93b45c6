"""Writing a result whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from aot.errors import OutputError, first_line
from aot.paths import is_same_file, path_kind

__all__ = ["check_writable", "make_folder", "write_text", "write_whole"]


def check_writable(path: Path, *, overwrite: bool, source: str | Path | None = None) -> None:
    """Fail early, before the long work whose result goes to `path`. source: what the work reads, if that is a file.

    Raises:
        OutputError: it is `source`; the file exists and `overwrite` is false; it is a folder, or its folder does not
            exist.
    """
    try:
        is_folder, exists = path.is_dir(), os.path.lexists(path)  # also a symbolic link to nowhere
    except OSError as error:  # for instance a name that is too long
        raise _explained(path, error) from error
    if is_folder:
        raise OutputError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; make it first")
    if source is not None and path_kind(source) and is_same_file(path, source):
        raise OutputError(f"{path} is the input itself; choose another name")
    if exists and not overwrite:
        raise OutputError(f"{path} exists; pass --force to replace it")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to; choose another")


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there.

    Raises:
        OutputError: a file has that name, or the place cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{path} is a file; name a folder") from None
    except OSError as error:
        raise _explained(path, error) from error


def write_text(path: Path, text: str, *, overwrite: bool) -> None:
    """`write_whole` for a text, in UTF-8.

    Raises:
        OutputError: as `write_whole`.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=overwrite)


def write_whole(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there; on any failure nothing stays.

    Raises:
        OutputError: as `check_writable`, or the disk is full.
    """
    check_writable(path, overwrite=overwrite)
    # Made here and not by `tempfile`, whose files only their owner may read: the system applies the umask to this one.
    temporary = path.parent / f".aot-{secrets.token_hex(8)}.part"
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _explained(path, error) from error
    try:
        write(temporary)
        _place(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise _explained(path, error) from error
    except RuntimeError as error:  # torch.save reports a full disk this way
        raise OutputError(f"{path} could not be written ({first_line(error)}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


def _place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the file has appeared meanwhile
    except FileExistsError:
        raise OutputError(f"{path} exists; pass --force to replace it") from None
    except OSError:  # no hard links on this file system
        temporary.replace(path)


def _explained(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"no space left to write {path}; free some, or choose another disk")
    return OutputError(f"{path} could not be written: {error.strerror or error}")
