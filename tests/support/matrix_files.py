"""Video files of all kinds, drawn at random and encoded by PyAV; every picture shows its own number and colors.

A file that cannot be made (a container that does not take the codec, an encoder that is not there) raises
`CannotBeMadeError`; everything else about a kind is in its `Kind`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from tests.support import make_videos as make

__all__ = [
    "ASPECT_STATED",
    "GUESSED",
    "CannotBeMadeError",
    "Kind",
    "displayed_size",
    "draw",
    "expected_numbers",
    "kinds",
    "write",
]

CONTAINERS: dict[str, tuple[str, ...]] = {
    "libx264": ("mp4", "mov", "mkv", "avi", "ts", "flv", "3gp", "h264", "mpg"),
    "libx265": ("mp4", "mov", "mkv", "ts", "hevc"),
    "mpeg4": ("mp4", "mov", "mkv", "avi", "ts", "3gp", "m4v"),
    "mpeg2video": ("mpg", "ts", "mkv", "m2v", "mov", "avi"),
    "mpeg1video": ("mpg", "mkv"),
    "libvpx": ("webm", "mkv", "ogv"),
    "libvpx-vp9": ("webm", "mkv", "mp4"),
    "libsvtav1": ("webm", "mkv", "mp4"),
    "mjpeg": ("avi", "mov", "mkv", "mjpeg", "mp4"),
    "ffv1": ("mkv", "avi", "nut"),
    "prores_ks": ("mov", "mkv"),
    "huffyuv": ("avi", "nut"),
    "utvideo": ("avi", "mov"),
    "gif": ("gif",),
    "apng": ("apng",),
    "dvvideo": ("dv", "avi", "mov"),
    "flv": ("flv",),
    "h263": ("3gp", "mov"),
    "msmpeg4": ("avi",),
    "wmv2": ("asf", "avi"),
    "png": ("mov", "avi"),
    "qtrle": ("mov",),
    "rawvideo": ("avi", "nut", "y4m"),
    "jpeg2000": ("mkv", "mov", "mxf"),
}
SIZES = {"h263": (176, 144), "dvvideo": (720, 576)}
_PIXEL_FORMATS = """
    yuv420p yuv422p yuv444p yuv411p yuv410p yuv440p yuv420p10le yuv422p10le yuv444p10le yuv420p12le yuvj420p yuvj422p
    yuvj444p yuva420p yuva444p10le rgb24 bgr24 gbrp gbrp10le bgr0 gray gray10le rgba bgra rgb8 pal8 rgb555le
"""
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "8", "crf": "10", "svtav1-params": "enable-tf=0"},
}
# Of ITU-T H.273, and what FFmpeg's scaler takes for those that it does not know.
MATRICES = (1, 2, 4, 5, 6, 7, 8, 9, 10, 14)
GUESSED = {8: 2, 10: 9, 14: 2}
TURNABLE = ("mp4", "mov", "3gp")
# Containers in which a stream may begin at any time and frames may last differently.
TIMED = ("mp4", "mov", "mkv", "webm", "ts", "flv")
JOINABLE = ("ts", "mpg", "h264", "hevc", "m2v")
ASPECT_STATED = ("libx264", "libx265")  # any aspect, in any container
BIDIRECTIONAL = ("libx264", "libx265", "mpeg4", "mpeg2video")
FRAMES = 12
JOINED_FRAMES = 7


class CannotBeMadeError(Exception):
    """This PyAV has no encoder for the kind, or the container refuses the codec."""


@dataclass(frozen=True)
class Kind:
    """One file: codec, container, how colors are stored, how the picture lies, when frames are shown.

    matrix, full_range: of YUV. degrees, mirrored: how the file asks to lay the stored picture down.
    """

    codec: str
    suffix: str
    pix_fmt: str
    matrix: int
    full_range: bool
    degrees: int
    mirrored: bool
    timing: str
    pixel_aspect: Fraction

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, whatever the shape of its pixels."""
        return SIZES.get(self.codec, (make.WIDTH, make.HEIGHT))

    @property
    def is_yuv(self) -> bool:
        """Whether the color matrix and its range mean anything."""
        return self.pix_fmt.startswith("yuv")

    def __str__(self) -> str:
        color = f"matrix {self.matrix} {'full' if self.full_range else 'limited'}" if self.is_yuv else "rgb or gray"
        laid = f"{self.degrees}{' mirrored' if self.mirrored else ''}"
        return f"{self.codec}.{self.suffix} {self.pix_fmt} {color} {laid} {self.timing} aspect {self.pixel_aspect}"


def kinds(seed: int) -> Any:
    """Yield kinds without end, codecs and their containers one after another, the rest at random."""
    pick = random.Random(seed)
    pairs = [(codec, suffix) for codec, suffixes in CONTAINERS.items() for suffix in suffixes]
    while True:
        pick.shuffle(pairs)
        for codec, suffix in pairs:
            yield _kind(codec, suffix, pick)


def _kind(codec: str, suffix: str, pick: random.Random) -> Kind:
    turned = suffix in TURNABLE and pick.random() < 0.7
    pix_fmt = pick.choice(_pixel_formats(codec))
    return Kind(
        codec=codec,
        suffix=suffix,
        pix_fmt=pix_fmt,
        matrix=pick.choice(MATRICES),
        full_range=codec == "mjpeg"
        or pix_fmt.startswith("yuvj")
        or (codec in BIDIRECTIONAL[:2] and pick.random() < 0.3),
        degrees=pick.choice((0, 90, 180, 270)) if turned else 0,
        mirrored=turned and pick.random() < 0.5,
        timing=pick.choice(_timings(codec, suffix)),
        pixel_aspect=pick.choice((Fraction(1), Fraction(1), Fraction(4, 3), Fraction(1, 2))),
    )


def _pixel_formats(codec: str) -> list[str]:
    try:
        offered = av.codec.Codec(codec, "w").video_formats or []
    except (FFmpegError, ValueError):
        offered = []
    if codec == "rawvideo":
        return ["yuv420p", "yuv422p"]
    return sorted({each.name for each in offered} & {*_PIXEL_FORMATS.split()}) or ["yuv420p"]


def _timings(codec: str, suffix: str) -> list[str]:
    timings = ["constant"]
    if suffix not in ("dv",):
        timings.append("one frame")
    if suffix in TIMED:
        timings += ["variable", "late"]
    if suffix in ("mkv", "mp4", "mov"):
        timings.append("time of day")
    if suffix in ("mp4", "mov"):
        timings.append("edit list")
    if suffix in JOINABLE and codec in BIDIRECTIONAL:
        timings += ["joined", "joined"]
    if codec in BIDIRECTIONAL:
        timings += ["B-frames", "open groups"]
    return timings


def draw(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture [H, W, 3] that `make_videos.read` reads, with a band of colors across its middle."""
    picture = make.draw(number, *size)
    height, width = picture.shape[:2]
    colors = np.random.default_rng(number).integers(0, 256, (8, 3), dtype=np.uint8)
    picture[height * 7 // 16 : height * 9 // 16] = colors.repeat(width // 8, 0)
    return picture


def expected_numbers(kind: Kind) -> list[int]:
    """Return what the shown frames must read, in order."""
    if kind.timing == "one frame":
        return [0]
    if kind.timing == "edit list":
        return list(range(4, FRAMES))
    if kind.timing == "joined":
        return [*range(FRAMES), *range(JOINED_FRAMES)]
    return list(range(FRAMES))


def displayed_size(kind: Kind) -> tuple[int, int]:
    """Return width and height with square pixels."""
    (width, height), aspect = kind.size, kind.pixel_aspect
    return (width, round(height * aspect)) if kind.degrees % 180 else (round(width * aspect), height)


def write(kind: Kind, folder: Path) -> Path:
    """Make a file of this kind in an empty folder.

    Raises:
        CannotBeMadeError: see there.
    """
    path = folder / f"file.{kind.suffix}"
    if (kind.codec, kind.suffix, kind.pix_fmt) == ("libvpx-vp9", "mp4", "yuv440p"):
        raise CannotBeMadeError("FFmpeg leaves out the box that says how VP9 is stored, without which it reads nothing")
    try:
        _encode(kind, path, FRAMES if kind.timing != "one frame" else 1)
        if kind.timing == "joined":
            second = _encode(kind, folder / f"second.{kind.suffix}", JOINED_FRAMES)
            path.write_bytes(path.read_bytes() + second.read_bytes())
        if kind.timing == "edit list":
            path = make.trim(path, folder / f"trimmed.{kind.suffix}", 4)
    except (FFmpegError, ValueError, OSError) as error:
        raise CannotBeMadeError(f"{kind}: {error}") from error
    if kind.degrees or kind.mirrored:
        path = make.turn(path, folder / f"laid.{kind.suffix}", kind.degrees, mirrored=kind.mirrored)
    return path


def _encode(kind: Kind, path: Path, count: int) -> Path:
    form = {"h264": "h264", "m2v": "mpeg2video", "m4v": "m4v", "y4m": "yuv4mpegpipe", "mpg": "vob"}.get(kind.suffix)
    with av.open(str(path), "w", format=form) as container:
        stream = cast("Any", container.add_stream(kind.codec, rate=make.RATE, options=_options(kind)))
        first = _stored(kind, draw(0, kind.size))
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], kind.pix_fmt
        stream.codec_context.sample_aspect_ratio = kind.pixel_aspect
        stream.codec_context.thread_count = 1
        if kind.is_yuv:
            stream.codec_context.colorspace, stream.codec_context.color_range = kind.matrix, 1 + kind.full_range
        if kind.timing in _TIMES_MS:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = _coded(kind, _stored(kind, draw(number, kind.size)))
            if kind.timing in _TIMES_MS:
                frame.pts, frame.time_base = _TIMES_MS[kind.timing](number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


_TIMES_MS: dict[str, Callable[[int], int]] = {
    "variable": lambda number: 40 * number + 160 * (number // 3),
    "late": lambda number: 3000 + 40 * number,
    "time of day": lambda number: 1_700_000_000_000 + 40 * number,
}


def _options(kind: Kind) -> dict[str, str]:
    options = dict(OPTIONS.get(kind.codec, {}))
    bidirectional = kind.timing in ("B-frames", "open groups", "joined", "edit list")
    if kind.codec in BIDIRECTIONAL:
        options |= {"bf": "2" if bidirectional else "0", "g": "5"}
    if kind.timing == "open groups" and kind.codec == "libx264":
        options["x264-params"] = "open-gop=1"
    if kind.timing == "open groups" and kind.codec == "libx265":
        options["x265-params"] += ":open-gop=1"
    return options


def _stored(kind: Kind, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture as it must be stored so that it is upright when the file's orientation was followed."""
    unmirrored = picture[:, ::-1] if kind.mirrored else picture
    return np.ascontiguousarray(np.rot90(unmirrored, kind.degrees // 90))


def _coded(kind: Kind, picture: NDArray[np.uint8]) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    if not kind.is_yuv:
        return frame.reformat(format=kind.pix_fmt)
    convertible = kind.matrix if kind.matrix not in GUESSED else 1
    coded = frame.reformat(format=kind.pix_fmt, dst_colorspace=convertible, dst_color_range=1 + kind.full_range)
    coded.colorspace = kind.matrix
    return coded
