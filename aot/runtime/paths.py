"""What a path that the user gave leads to."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Literal

__all__ = ["PathKind", "is_same_file", "path_kind"]

PathKind = Literal["file", "folder", "stream"]


def path_kind(name: str | Path) -> PathKind | None:
    """Return the kind of what is at `name`, None if there is nothing.

    Any text is allowed. pathlib raises for names that no file can have (too long, a null
    character); the result is None.
    """
    if not str(name):
        return None
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "stream"


def is_same_file(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths, also through links, lead to one file, which need not exist."""
    if path_kind(one) and path_kind(other):
        return Path(one).samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
