"""All code that depends on the version of PyAV; 15 and later are supported."""

from __future__ import annotations

import math
import os
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.sidedata.sidedata import Type as SideData

from aot.video.formats import FORMATS

if TYPE_CHECKING:
    from pathlib import Path

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = [
    "UnknownDataError", "as_fraction", "display_matrix", "most_pixels", "open_input", "prepare_decoder", "quarter_turn",
    "side_by_side",
]  # fmt: skip

_MOST_PIXELS = 2**26
# Decoders of these codecs hold up to 16 pictures; no level of their standards allows more pixels.
_HOLDING_MANY = frozenset(("h264", "hevc", "vp9", "av1"))
_MOST_PIXELS_OF_LEVELS = 35_651_584

_BYTES_PER_PIXEL = 3  # 10 bits of YUV 4:2:0, or 8 of 4:4:4
_THREADED_BYTES = 256 << 20
_MOST_AUTOMATIC_THREADS = 16  # most that FFmpeg starts by itself

_SIDE_BY_SIDE_BYTES = 512 << 20
_CORES_OF_A_DECODER = 4
_PICTURES_OF_A_DECODER = 24  # up to 16 that others refer to, one for each thread, and 2 that wait


def open_input(file: Path, options: dict[str, str]) -> InputContainer:
    """Open `file` with FFmpeg, which reads no other file; tags need not be valid UTF-8.

    Raises:
        FFmpegError, OSError: If `file` cannot be read or FFmpeg does not recognize it; errno is
            EINVAL if its format is not in `FORMATS`.
    """
    # Without `pattern_type`, FFmpeg expands "%d" and "*" in the name of a picture to many files.
    limits = {"format_whitelist": ",".join(FORMATS), "pattern_type": "none"}
    # PyAV 19 and later has no such argument and always tolerates tags that are not UTF-8.
    tolerant: dict[str, Any] = {"metadata_errors": "ignore"} if _major_version() < 19 else {}
    # The argument `options` reaches each stream, too, and crashes PyAV 15 on MPEG program streams.
    settings = {**limits, **options}
    # An absolute path cannot be mistaken for a protocol such as "concat:".
    container: InputContainer = av.open(str(file.absolute()), container_options=settings, **tolerant)
    return container


def most_pixels(stream: VideoStream) -> int:
    """Return the maximum allowed pixels of a picture of `stream`; a file can claim any size."""
    holds_many = stream.codec_context.codec.canonical_name in _HOLDING_MANY
    return _MOST_PIXELS_OF_LEVELS if holds_many else _MOST_PIXELS


def side_by_side(pixels: int) -> int:
    """Return how many decoders of pictures with `pixels` may run at the same time.

    One decoder keeps a few cores busy with threads of its own, so there is one for every few cores,
    and only as many as can hold all their pictures in `_SIDE_BY_SIDE_BYTES`.
    """
    pictures = _SIDE_BY_SIDE_BYTES // (_BYTES_PER_PIXEL * max(1, pixels))
    return max(1, min((os.cpu_count() or 1) // _CORES_OF_A_DECODER, pictures // _PICTURES_OF_A_DECODER))


def prepare_decoder(stream: VideoStream, *, lanes: int) -> None:
    """Limit the memory of a decoder: its picture size, and its threads by the cores of its lane.

    FFmpeg holds one picture per thread. So large pictures get fewer threads, and the largest are
    decoded one at a time, in slices. `lanes` is the number of decoders that share the cores; 0 is a
    decoder without threads. Call this before the first packet is decoded.
    """
    context = stream.codec_context
    # Pictures may grow within a stream. FFmpeg compares the allocated size, with padded rows.
    context.options = {**context.options, "max_pixels": str(most_pixels(stream) * 5 // 4)}
    if not lanes:
        return
    most = _THREADED_BYTES // (_BYTES_PER_PIXEL * max(1, context.width * context.height))
    stream.thread_type = "SLICE" if most < 2 else "AUTO"
    if lanes > 1 or 2 <= most < _MOST_AUTOMATIC_THREADS:
        context.thread_count = min(most, (os.cpu_count() or 1) // lanes + 1)


def as_fraction(rational: Any) -> Fraction | None:
    """Return a time base or rate of PyAV as a Fraction, or None if the file does not have it.

    PyAV up to 18 returns a Fraction or None. Later versions return a type of their own, with the
    value 0/1 or 0/0 if it is missing.
    """
    return Fraction(rational.numerator, rational.denominator) if rational else None


class UnknownDataError(Exception):
    """Raised if PyAV cannot return side data, because it does not know one kind (such as Exif)."""


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """Return the nine numbers of the display matrix of `frame`, or None if it has no matrix.

    Raises:
        UnknownDataError: If PyAV cannot read the side data.
    """
    # PyAV's own `frame.rotation` does not distinguish mirrored from rotated pictures.
    try:
        side_data: Any = frame.side_data  # declared as a mapping from strings
        data = side_data.get(SideData.DISPLAYMATRIX)
    except ValueError as error:
        raise UnknownDataError from error
    return None if data is None else struct.unpack("=9i", bytes(data))


def quarter_turn(degrees: float) -> tuple[int, ...] | None:
    """Return the display matrix of a counterclockwise rotation; None if |`degrees`| > 180."""
    if abs(degrees) > 180:
        return None
    cosine, sine = (
        round(65536 * ratio) for ratio in (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    )
    return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)


def _major_version() -> int:
    return int(av.__version__.partition(".")[0])
