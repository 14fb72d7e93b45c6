"""Write a result completely or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISREG

from aot.errors import OutputError, first_line
from aot.runtime.paths import is_same_file, path_kind
from aot.runtime.temporary_files import temporary_file
from aot.text import as_utf8

__all__ = ["check_writable", "make_folder", "write_text", "write_whole"]

_NEW_FILE = 0o666  # the system clears the bits of the umask
_PRIVATE = 0o600  # while the file that replaces another one is written


def check_writable(path: Path, *, overwrite: bool, source: str | Path | None = None) -> None:
    """Check before a long computation that its result can be written to `path`.

    `source` is the input of the computation; `path` must be another file.

    Raises:
        OutputError: If `path` is `source`, a folder, a device or an invalid name; if it exists and
            `overwrite` is false; or if its folder does not exist or is not writable.
    """
    mode, exists, folder = _mode(path), os.path.lexists(path), _target(path).parent
    if mode is not None and S_ISDIR(mode):
        raise OutputError(f"{path} is a folder; name a file in it")
    if mode is not None and not S_ISREG(mode):
        raise OutputError(f"{path} is a device or a pipe; name a file")
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; make it first")
    if source is not None and path_kind(source) and is_same_file(path, source):
        raise OutputError(f"{path} is the input itself; choose another name")
    if exists and not overwrite:
        raise OutputError(f"{path} exists; pass --force to replace it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {folder} cannot be written to; choose another")


def _mode(path: Path) -> int | None:
    """Return the type and permissions (st_mode) of `path`, or None if it does not exist.

    Raises:
        OutputError: If `path` is not a valid file name.
    """
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise OutputError(f"{path.parent} is not a folder; choose another") from None
    except ValueError as error:  # a null character
        raise OutputError(f"{path} is not a name that a file can have; choose another") from error
    except OSError as error:  # for instance a name that is too long
        raise _explained(path, error) from error


def _target(path: Path) -> Path:
    """Return the target if `path` is a symbolic link (to keep the link), otherwise `path`."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def make_folder(path: Path) -> None:
    """Create the folder `path` and its parents if they do not exist.

    Raises:
        OutputError: If `path` is a file, or the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{path} is a file; name a folder") from None
    except OSError as error:
        raise _explained(path, error) from error


def write_text(path: Path, text: str, *, overwrite: bool) -> None:
    """Write `text` to `path` completely or not at all; replace what UTF-8 cannot encode.

    Raises:
        OutputError: See `write_whole`.
    """
    write_whole(path, lambda temporary: temporary.write_text(as_utf8(text), encoding="utf-8"), overwrite=overwrite)


def write_whole(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename that file to `path`.

    After a failure, no new file is left. If `path` exists, its permissions are kept. If `path` is
    a symbolic link, the target of the link is replaced.

    Raises:
        OutputError: If `check_writable` refuses `path`, or the file cannot be written.
    """
    check_writable(path, overwrite=overwrite)
    target, mode = _target(path), _mode(path)
    try:
        with temporary_file(target.parent, mode=_NEW_FILE if mode is None else _PRIVATE) as temporary:
            write(temporary)
            if mode is not None:
                temporary.chmod(S_IMODE(mode))
            _move(temporary, target, overwrite=overwrite)
    except OSError as error:
        raise _explained(path, error) from error
    except RuntimeError as error:  # torch.save reports a full disk this way
        raise OutputError(f"{path} could not be written ({first_line(error)}); is the disk full?") from error


def _move(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the file exists by now
    except FileExistsError:
        raise OutputError(f"{path} exists; pass --force to replace it") from None
    except OSError:  # no hard links on this file system
        temporary.replace(path)


def _explained(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"no space left to write {path}; free some, or choose another disk")
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(f"{path} could not be written: the name is too long; choose a shorter one")
    return OutputError(f"{path} could not be written: {error.strerror or error}")
