"""What is at a path that a user named."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Literal

__all__ = ["PathKind", "is_same_file", "path_kind"]

PathKind = Literal["file", "folder", "stream"]


def path_kind(name: str | Path) -> PathKind | None:
    """Return what is at `name`, None for nothing. Any text may be asked about: where pathlib raises, because no file
    can have such a name (too long, a null character), there is nothing.
    """
    if not str(name):
        return None
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "stream"


def is_same_file(one: str | Path, other: str | Path) -> bool:
    """Return whether two names are of one file, which need not be there: also through symbolic and hard links."""
    if path_kind(one) and path_kind(other):
        return Path(one).samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
