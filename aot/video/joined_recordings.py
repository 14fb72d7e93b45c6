"""Detect files of several joined recordings; FFmpeg reads only the first one or two of them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["another_begins"]

# The first bytes of a file, by the name of FFmpeg's demuxer.
_BEGINNINGS = {
    "flv": re.compile(rb"FLV\x01[\x00-\x05]\x00\x00\x00\x09"),
    "matroska": re.compile(rb"\x1a\x45\xdf\xa3.{0,64}?(?:matroska|webm)", re.DOTALL),
    "mov": re.compile(rb"\x00\x00\x00[\x08-\x40]ftyp"),
}
_LONGEST_BEGINNING = 80
_PIECE_BYTES = 1 << 20


def another_begins(file: Path, container: str, end: int) -> bool:
    """Return whether another recording in the format `container` begins at byte `end` or later."""
    beginning = _BEGINNINGS.get(container.partition(",")[0])
    if beginning is None:
        return False
    with file.open("rb") as stream:
        stream.seek(end)
        kept = b""
        while piece := stream.read(_PIECE_BYTES):
            if beginning.search(kept + piece):
                return True
            kept = piece[-_LONGEST_BEGINNING:]
    return False
