"""Build the frame index of a video from its packets and one decoded picture."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, compress, groupby, islice
from typing import TYPE_CHECKING

from av.error import FFmpegError
from av.stream import Disposition

from aot.errors import VideoError
from aot.types import VideoInfo
from aot.video.exif import exif_orientation
from aot.video.joined_recordings import another_begins
from aot.video.orientation import Orientation
from aot.video.pyav import UnknownDataError, as_fraction, display_matrix, most_pixels, prepare_decoder, quarter_turn
from aot.video.source import open_container, packets
from aot.video.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["FrameIndex", "index_file"]

_DEFAULT_FPS = Fraction(25)
_ORIENTATION_PACKETS = 64

_MOST_ASPECT = 4  # largest width / height of a pixel; 2 occurs in practice
_LEAST_STRETCH = Fraction(1, 100)  # smaller deviations from 1 come from rounding and are ignored
_UNSTATED = -(2**63)  # FFmpeg's value for a missing time


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The frames of a video's main stream, in display order.

    Attributes:
        info: description of the video; width and height are as displayed.
        pts: presentation times of all frames that can be shown, ascending, in units of `time_base`
            seconds. `pts` and `keyframes` are arrays of 8-byte integers.
        keyframes: positions in `pts` at which decoding can start, ascending.
        counted: whether the container stores no usable presentation times. `pts` is then
            reconstructed, and frames are found by counting decoded pictures.
        header_duration_s: duration in the container's header, or 0 if missing.
        restarts: number of times that timestamps restart in the file. `pts` is made to continue,
            so seeking by `pts` fails after a restart.
        unread: whether the file has another recording, which FFmpeg does not read.
        decoded_size: (rows, cols) of an upright decoded picture, or None if pixels are square.
    """

    info: VideoInfo
    pts: Sequence[int]
    keyframes: Sequence[int]
    time_base: Fraction
    counted: bool
    header_duration_s: float = 0.0
    restarts: int = 0
    unread: bool = False
    decoded_size: tuple[int, int] | None = None

    def times_s(self) -> array[float]:
        """Return the display time of each frame, in seconds after the first frame."""
        first, (numerator, denominator) = self.pts[0], self.time_base.as_integer_ratio()
        return array("d", ((pts - first) * numerator / denominator for pts in self.pts))

    def keyframe_up_to(self, position: int) -> int:
        """Return the last keyframe up to `position`, or 0 if there is none."""
        count = bisect_right(self.keyframes, position)
        return self.keyframes[count - 1] if count else 0

    def keyframe_from(self, position: int) -> int:
        """Return the first keyframe from `position` on, or the number of frames."""
        count = bisect_left(self.keyframes, position)
        return self.keyframes[count] if count < len(self.keyframes) else len(self.pts)


def index_file(file: Path, name: str) -> FrameIndex:
    """Return the frame index of `file`; messages and `info.path` show `name` instead of its path.

    Raises:
        VideoError: If `file` is not a video, is cut off, or has no picture.
    """
    with open_container(file, name) as container:
        # 1. Read the packets of all candidate streams once.
        streams = _picture_streams(container, name)
        scans = {stream.index: _Scan(stream, Timeline.of(container, stream)) for stream in streams}
        end = 0
        for packet in packets(container, *streams):
            scans[packet.stream_index].add(packet)
            end = max(end, (packet.pos or 0) + packet.size)
        # 2. The main stream has the largest pictures, then the most frames.
        scan = max(scans.values(), key=lambda scan: (bool(scan.pts), scan.area, len(scan.pts)))
        if not scan.pts:
            raise VideoError(f"{name} holds no video frame: copy or download it again")
        index = _index(container, scan, name, len(streams))
        index = replace(index, unread=another_begins(file, container.format.name, end))
        aspect = _pixel_aspect(scan.stream)
    # 3. Orientation and pixel aspect give the displayed size.
    return _as_displayed(index, _orientation(file, name, index.info.stream_index), aspect)


def _picture_streams(container: InputContainer, name: str) -> list[VideoStream]:
    """Return the video streams whose codec can be decoded, without cover pictures."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [stream for stream in container.streams.video if not stream.disposition & still]
    if not moving:
        found = "only a cover picture" if container.streams.video else "no picture"
        raise VideoError(f"{name} has {found}, no video stream: give a file with video")
    # PyAV leaves the codec context out when FFmpeg has no decoder.
    decodable = [stream for stream in moving if stream.codec_context is not None]
    for stream in decodable:
        if stream.codec_context.width * stream.codec_context.height > most_pixels(stream):
            raise VideoError(f"{name} has pictures of more than {most_pixels(stream):,} pixels: scale it down first")
    if not decodable:
        raise VideoError(f"{name} uses a video codec that cannot be decoded here: convert it to H.264 first")
    return decodable


@dataclass(slots=True)
class _Scan:
    """Packet data of one stream; each array has one entry per shown frame, in file order.

    All times are in units of the stream's time base. `pts` or `dts` is _UNSTATED if the packet
    lacks it; `ticks` is the duration of the frame, or 0 if unknown.
    """

    stream: VideoStream
    timeline: Timeline
    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    ticks: array[int] = field(default_factory=lambda: array("q"))
    is_keyframe: bytearray = field(default_factory=bytearray)
    discarded: int = 0

    @property
    def area(self) -> int:
        return self.stream.codec_context.width * self.stream.codec_context.height

    def add(self, packet: Packet[VideoStream]) -> None:
        self.timeline.place(packet)
        if packet.is_discard:
            self.discarded += 1
        elif not _invisible(self.stream, packet):
            pts, dts = packet.pts, packet.dts
            self.pts.append(_UNSTATED if pts is None else pts)
            self.dts.append(_UNSTATED if dts is None else dts)
            self.ticks.append(packet.duration or 0)
            self.is_keyframe.append(packet.is_keyframe)


def _invisible(stream: VideoStream, packet: Packet[VideoStream]) -> bool:
    """Return whether a packet is a VP8 frame that is never shown (bit 4 of its header is 0)."""
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10


def _index(container: InputContainer, scan: _Scan, name: str, video_streams: int) -> FrameIndex:
    stream = scan.stream
    time_base = as_fraction(stream.time_base) or Fraction(1, 1_000_000)
    times, counted = _frame_times(container, scan, time_base)
    pts = _ascending(times)
    keyframes = _ascending(bisect_left(pts, time) for time in compress(times, scan.is_keyframe))
    last_ticks = scan.ticks[times.index(pts[-1])] or _mean_ticks(pts) or _nominal_ticks(stream, time_base)
    duration_s = float((pts[-1] - pts[0] + last_ticks) * time_base)
    mean_s = float(_mean_ticks(pts) * time_base) or duration_s
    info = VideoInfo(
        path=name,
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        rotation_degrees=0,
        stream_index=stream.index,
        video_streams=video_streams,
        frames=len(pts),
        header_frames=stream.frames,
        discarded_frames=scan.discarded,
        keyframes=len(keyframes),
        duration_s=duration_s,
        average_fps=1 / mean_s if mean_s else 0.0,
        variable_frame_rate=_varies(pts, time_base),
        has_audio=bool(container.streams.audio),
    )
    return FrameIndex(info, pts, keyframes, time_base, counted, _header_duration_s(container), scan.timeline.restarts)


def _header_duration_s(container: InputContainer) -> float:
    """Return the duration in the header, or 0 for formats whose duration FFmpeg estimates."""
    duration_s, start_s = (container.duration or 0) / 1e6, (container.start_time or 0) / 1e6
    if container.format.name.startswith("mov"):
        return duration_s
    if not container.format.name.startswith("matroska"):
        return 0.0
    # Many programs write the end time of the last picture; subtract the start time.
    return duration_s - start_s if duration_s > start_s > 0 else duration_s


def _frame_times(container: InputContainer, scan: _Scan, time_base: Fraction) -> tuple[array[int], bool]:
    """Return the presentation time of each packet, and whether the times are reconstructed."""
    # AVI stores no presentation times; FFmpeg reports times in decoding order instead.
    if container.format.name != "avi" and _UNSTATED not in scan.pts:
        return scan.pts, False
    if _UNSTATED not in scan.dts:
        return scan.dts, True
    ticks = scan.ticks[0] or _nominal_ticks(scan.stream, time_base)
    return array("q", (round(number * ticks) for number in range(len(scan.pts)))), True


def _ascending(numbers: Iterable[int]) -> array[int]:
    """Return the distinct `numbers`, ascending."""
    return array("q", (number for number, _ in groupby(sorted(numbers))))


def _nominal_ticks(stream: VideoStream, time_base: Fraction) -> Fraction:
    rate = as_fraction(stream.average_rate) or as_fraction(stream.guessed_rate) or _DEFAULT_FPS
    return 1 / (rate * time_base)


def _mean_ticks(pts: Sequence[int]) -> Fraction:
    return Fraction(pts[-1] - pts[0], max(1, len(pts) - 1))


def _varies(pts: Sequence[int], time_base: Fraction) -> bool:
    """Return whether any frame is off even spacing by more than rounding (1 tick + 1 ms)."""
    tolerance = 1 + math.ceil(Fraction(1, 1000) / time_base)
    first, mean = pts[0], float(_mean_ticks(pts))
    return any(abs(time - first - number * mean) > tolerance for number, time in enumerate(pts))


def _orientation(file: Path, name: str, stream_index: int) -> Orientation:
    """Return the orientation of the pictures, taken from the first frame that decodes."""
    # Ignoring edit lists gives the very first keyframe, even if an edit list hides it.
    with open_container(file, name, options={"ignore_editlist": "1"}) as container:
        stream = next(stream for stream in container.streams.video if stream.index == stream_index)
        prepare_decoder(stream, lanes=0)
        for packet in chain(islice(packets(container, stream), _ORIENTATION_PACKETS), (None,)):  # None flushes it
            try:
                frames = stream.decode(packet)
            except FFmpegError:
                continue
            if frames:
                return _orientation_of(frames[0], packet)
    return Orientation()


def _orientation_of(frame: VideoFrame, packet: Packet[VideoStream] | None) -> Orientation:
    try:
        return Orientation.of_matrix(display_matrix(frame))
    except UnknownDataError:
        found = exif_orientation(bytes(packet)) if packet is not None else None
        return found or Orientation.of_matrix(quarter_turn(frame.rotation))


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Return width / height of a stored pixel, or 1 if it is missing, implausible or almost 1."""
    aspect = as_fraction(stream.sample_aspect_ratio) or Fraction(1)
    if 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT and abs(aspect - 1) > _LEAST_STRETCH:
        return aspect
    return Fraction(1)


def _as_displayed(index: FrameIndex, orientation: Orientation, aspect: Fraction) -> FrameIndex:
    """Return `index` with the displayed size: upright, with square pixels."""
    stored = index.info.height, index.info.width
    square = index.info.height, max(1, round(index.info.width * aspect))
    if orientation.swaps_sides:
        stored, square = stored[::-1], square[::-1]
    info = replace(
        index.info,
        height=square[0],
        width=square[1],
        rotation_degrees=orientation.rotation_degrees,
        mirrored=orientation.mirrored,
    )
    return replace(index, info=info, decoded_size=None if square == stored else stored)
