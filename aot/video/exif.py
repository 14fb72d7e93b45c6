"""Read a photo's orientation from its Exif data (Exif 3.0, 4.6.5: tag 0x0112 of the 0th IFD)."""

from __future__ import annotations

import struct

from aot.video.orientation import Orientation

__all__ = ["exif_orientation"]

_ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(0, mirrored=True),
    3: Orientation(180),
    4: Orientation(180, mirrored=True),
    5: Orientation(90, mirrored=True),
    6: Orientation(90),
    7: Orientation(270, mirrored=True),
    8: Orientation(270),
}
# (marker, number of bytes between marker and Exif data) in JPEG, PNG and WebP files.
_MARKS = ((b"Exif\0\0", 0), (b"eXIf", 0), (b"EXIF", 4))
_ORIENTATION, _SHORT = 0x0112, 3
_ENTRY_BYTES = 12


def exif_orientation(picture: bytes) -> Orientation | None:
    """Return the Exif orientation of an encoded picture, or None if it is missing or invalid."""
    for mark, distance in _MARKS:
        start = picture.find(mark)
        if start >= 0:
            try:
                return _ORIENTATIONS.get(_orientation_value(picture[start + len(mark) + distance :]))
            except struct.error:  # the data are cut off
                return None
    return None


def _orientation_value(tiff: bytes) -> int:
    """Return the value of the orientation tag, or 0 if the tag is missing.

    Raises:
        struct.error: If `tiff` ends before the end of its directory of tags.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 0
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(entries):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + _ENTRY_BYTES * entry)
        if (tag, kind) == (_ORIENTATION, _SHORT):
            return int(value)
    return 0
