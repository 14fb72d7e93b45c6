"""Make small videos in which every picture shows its own number, so that tests can read it.

The top half of a picture has the number's bits as black and white blocks, the bottom half their
complement. A picture that is rotated, torn or mixed from two frames is not readable.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BITS = 8
WIDTH, HEIGHT = 160, 96
RATE = 25

# Rows of the 2x2 part of an MP4 display matrix by clockwise rotation, without and with a flip.
TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
MIRRORED_TURNS = {0: (-1, 0, 0, 1), 90: (0, 1, 1, 0), 180: (1, 0, 0, -1), 270: (0, -1, -1, 0)}


def draw(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return a picture [height, width, 3] of the bits of `number`, highest first."""
    bits = np.array([number >> bit & 1 for bit in reversed(range(BITS))], dtype=np.uint8)
    rows = np.stack([bits, 1 - bits]) * 255
    tall = np.repeat(np.repeat(rows, width // BITS, axis=1), height // 2, axis=0)
    return np.repeat(tall[:, :, None], 3, axis=2)


def read(pixels: NDArray[np.uint8]) -> int | None:
    """Return the number in a picture [H, W, 3], or None if the two halves do not agree."""
    height, width = pixels.shape[:2]
    columns = [(2 * k + 1) * width // (2 * BITS) for k in range(BITS)]
    top, bottom = (pixels[height * part // 4, columns].mean(axis=1) > 127 for part in (1, 3))
    if (top == bottom).any():
        return None
    return int(sum(int(bit) << k for k, bit in enumerate(reversed(top.tolist()))))


def write(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times_ms: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: int = RATE,
    first: int = 0,
    title: str | None = None,
) -> Path:
    """Encode pictures first .. first + count - 1, at a fixed rate or at the given times."""
    with av.open(str(path), "w") as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(draw(first + k, *size), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[k], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_picture(
    path: Path, picture: NDArray[np.uint8], pix_fmt: str, colorspace: int, *, named: int | None = None
) -> Path:
    """Encode one picture, tagged with its color space, or with `named` instead.

    A pix_fmt with a "j" has the full range.
    """
    color_range = 2 if "j" in pix_fmt else 1
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
        stream.colorspace, stream.color_range = colorspace, color_range
        coded = frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range)
        if named is not None:
            stream.colorspace = coded.colorspace = named
        container.mux(stream.encode(coded))
        container.mux(stream.encode())
    return path


def write_two_streams(path: Path, small: int, large: int) -> Path:
    """Encode two streams: `small` small pictures, and `large` large ones numbered from 100."""
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((WIDTH // 2, HEIGHT // 2), (WIDTH, HEIGHT)):
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for stream, count, first in zip(streams, (small, large), (0, 100), strict=True):
            for k in range(count):
                picture = draw(first + k, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return path


def write_late_sound(path: Path, folder: Path) -> Path:
    """Write a .ts file whose sound starts at frame 20, after FFmpeg has searched for streams."""
    parts = [
        _noise(folder / f"part{first}{path.suffix}", first, count, sound=first == 20)
        for first, count in ((0, 20), (20, 4), (24, 6))
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _noise(path: Path, first: int, count: int, *, sound: bool) -> Path:
    random = np.random.default_rng(first)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=RATE, options={"qmin": "1", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 640, 480, "yuv420p", 60_000_000
        voice = container.add_stream("mp2", rate=44100, layout="mono") if sound else None
        for number in range(first, first + count):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (480, 640, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.rate, silence.pts, silence.time_base = 44100, first * 44100 // RATE, Fraction(1, 44100)
            container.mux(voice.encode(silence))
            container.mux(voice.encode())
    return path


def write_sound(path: Path) -> Path:
    """Encode one second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3" if path.suffix == ".mp3" else "aac", rate=44100)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound_with_cover(path: Path, folder: Path) -> Path:
    """Write an MP3 with a picture in its ID3 tag, which FFmpeg reports as a video stream."""
    picture = _png()
    body = b"\x00image/png\x00\x03\x00" + picture
    tag = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = len(tag)
    header = b"ID3\x03\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(header + tag + write_sound(folder / "plain.mp3").read_bytes())
    return path


def _png() -> bytes:
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "rgb24", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
    return b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))


def write_photo(path: Path, picture: NDArray[np.uint8], exif_orientation: int) -> Path:
    """Write a JPEG picture with an orientation in its Exif data."""
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    tag = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, exif_orientation, 0, 0)
    start, rest = path.read_bytes()[:2], path.read_bytes()[2:]
    path.write_bytes(start + b"\xff\xe1" + struct.pack(">H", 2 + len(tag)) + tag + rest)
    return path


def remux(
    source: Path, target: Path, edit: Callable[[av.Packet], av.Packet], options: dict[str, str] | None = None
) -> Path:
    """Copy packets without encoding; `edit` may change or replace one."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options or {}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.size:
                changed = edit(packet)
                changed.stream = copy
                writer.mux(changed)
    return target


def trim(source: Path, target: Path, frames: int) -> Path:
    """Copy a video as `ffmpeg -ss ... -c copy` does: an edit list hides the first `frames`."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        shift = round(frames / stream.average_rate / stream.time_base)

    def earlier(packet: av.Packet) -> av.Packet:
        packet.pts -= shift
        packet.dts -= shift
        return packet

    return remux(source, target, earlier)


def turn(source: Path, target: Path, degrees: int, *, mirrored: bool = False) -> Path:
    """Copy an MP4 with a clockwise rotation in its header, followed by a flip if `mirrored`."""
    return lay_down(source, target, (MIRRORED_TURNS if mirrored else TURNS)[degrees])


def lay_down(source: Path, target: Path, rows: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 with the 2x2 part of the display matrix in its track header replaced."""
    data = bytearray(source.read_bytes())
    header = data.index(b"tkhd")
    matrix = header + (56 if data[header + 4] else 44)  # version 1 of the box has longer times
    a, b, c, d = (value * 65536 for value in rows)
    struct.pack_into(">9i", data, matrix, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def overwrite_packets(source: Path, target: Path, numbers: Sequence[int]) -> Path:
    """Copy a file with the data of some packets (numbered in file order) replaced by 0xFF."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in numbers:
        position, size = places[number]
        data[position : position + size] = b"\xff" * size
    target.write_bytes(data)
    return target


def hide_vp8_frame(source: Path, target: Path, number: int) -> Path:
    """Copy a VP8 file and mark one frame as a reference that is never shown."""
    seen = iter(range(1 << 30))

    def edit(packet: av.Packet) -> av.Packet:
        if next(seen) != number:
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        return hidden

    return remux(source, target, edit)


def read_all(pixels: NDArray[np.uint8]) -> list[int | None]:
    """Return the numbers in pictures [F, 3, H, W]."""
    return [read(picture.transpose(1, 2, 0)) for picture in pixels]
