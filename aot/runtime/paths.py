"""Examine paths that the user gave."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Literal

__all__ = ["PathKind", "is_same_file", "path_kind"]

PathKind = Literal["file", "folder", "stream"]


def path_kind(name: str | Path) -> PathKind | None:
    """Return whether `name` is a file, a folder or a stream (device or pipe), or None if missing.

    `name` may be any text. The result is None for names that no file can have (too long, or with a
    null character), for which pathlib raises an exception.
    """
    if not str(name):
        return None
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "stream"


def is_same_file(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths name the same file; links are followed; the file may be missing."""
    if path_kind(one) and path_kind(other):
        return Path(one).samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
