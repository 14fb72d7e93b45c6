"""Draw on each frame of a video, and encode the frames again with their original times.

Only a few frames are in memory at a time, so memory does not grow with the video.
"""

from __future__ import annotations

import math
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.codec
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from aot.errors import ConfigError, OutputError, VideoError, first_line
from aot.reports.overlay.paint import Painter, TokenFates
from aot.runtime.atomic_writes import check_writable, write_whole
from aot.video import VideoFile, open_video

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from aot.config.schema import SamplingConfig
    from aot.types import VideoInfo
    from aot.video import OpenVideo

__all__ = ["check_overlay", "write_overlay"]

_ENCODER = "libx264"
# Without B-frames, presentation times and durations are stored unchanged.
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_MOST_PIXELS = 2**22  # 2560 x 1440 fits; the encoder holds about 10 pictures and one more per thread
_MOST_THREADS = 8
_AHEAD = 4  # frames decoded in advance, while others are drawn and encoded

OnFrame = Callable[[int, int], None]  # (done, all)


def check_overlay(source: str | Path | VideoFile, output: Path, *, overwrite: bool) -> None:
    """Check before a long computation that `write_overlay` can write `output`.

    Raises:
        ConfigError: If `output` does not end in .mp4.
        OutputError: If `output` is `source` or cannot be written, or if PyAV lacks the encoder.
    """
    file = source.path if isinstance(source, VideoFile) else source
    if output.suffix.lower() != ".mp4":
        raise ConfigError(f"{output} must end in .mp4, the only format an overlay is written in")
    check_writable(output, overwrite=overwrite, source=file)
    try:
        av.codec.Codec(_ENCODER, "w")
    except (FFmpegError, ValueError) as error:
        raise OutputError(
            f"this PyAV was built without {_ENCODER}, which writes H.264: "
            "pip install --force-reinstall --only-binary av av"
        ) from error


def write_overlay(
    source: str | Path | VideoFile,
    output: Path,
    tokens: TokenFates,
    sampling: SamplingConfig,
    on_progress: OnFrame = lambda done, frames: None,
    *,
    overwrite: bool = False,
) -> None:
    """Write all frames of `source` in the range of `sampling`, with the fates of `tokens` on them.

    The output is H.264 without sound, upright and at the original size (odd sides grow by one
    pixel; a picture over 4.2 million pixels is scaled down). Each frame keeps its duration, and the
    first one is at time 0.

    Raises:
        VideoError: See `aot.video.open_video`; also raised if no frame can be decoded.
        ConfigError, OutputError: See `check_overlay`; also raised if the disk is full.
    """
    check_overlay(source, output, overwrite=overwrite)
    every_frame = replace(sampling, fps=None, frames=sys.maxsize, select_frames=None, spacing="index", seek="exact")
    with open_video(source, every_frame) as video:
        write_whole(output, lambda file: _write(video, file, tokens, on_progress), overwrite=overwrite)


def _write(video: OpenVideo, file: Path, tokens: TokenFates, on_progress: OnFrame) -> None:
    positions, (height, width) = video.plan.positions, _drawn_size(video.index.info)
    with (
        _explained(),
        video.frames(size=(height, width), ahead=_AHEAD) as stream,
        av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        film = _Film(container, video, tokens, (height, width))
        for position, image in stream.images:
            film.add(position, image.permute(1, 2, 0).numpy())
            on_progress(position - positions[0] + 1, len(positions))
        film.finish()


def _drawn_size(info: VideoInfo) -> tuple[int, int]:
    """Return (rows, cols) of the output: the size of the video, limited to `_MOST_PIXELS`."""
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (info.height * info.width)))
    if scale == 1:
        return info.height, info.width
    height, width = (max(2, int(side * scale) // 2 * 2) for side in (info.height, info.width))
    return height, width


@contextmanager
def _explained() -> Iterator[None]:
    """Convert an error of the encoder into an `OutputError`."""
    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):  # `write_whole` explains errors of the file system
            raise
        raise OutputError(f"the overlay cannot be encoded ({first_line(error)}); convert the video first") from error


@dataclass(frozen=True, slots=True)
class _Timing:
    """Compute when the frames in the range of an open video are shown.

    `position` is the index of a frame in the video. Ticks are units of the video's time base; the
    first frame of the range is at tick 0.
    """

    video: OpenVideo

    def time_s(self, position: int) -> float:
        """Return the presentation time of a frame in the video, in seconds."""
        plan = self.video.plan
        return plan.timestamps_s[position - plan.positions[0]]

    def ticks(self, position: int) -> int:
        """Return the presentation time of a frame in the output, in ticks."""
        pts = self.video.index.pts
        return pts[position] - pts[self.video.plan.positions[0]]

    def lasting(self, position: int) -> int:
        """Return the duration of a frame in ticks: up to the next frame or the end of the video."""
        index = self.video.index
        if position + 1 < len(index.pts):
            return index.pts[position + 1] - index.pts[position]
        end = index.pts[0] + round(Fraction(index.info.duration_s) / index.time_base)
        return max(1, end - index.pts[position])

    def lasting_from(self, ticks: int) -> int:
        """Return the duration in ticks of the frame that begins at `ticks`."""
        pts = self.video.index.pts
        return self.lasting(bisect_left(pts, ticks + pts[self.video.plan.positions[0]]))

    @property
    def range_s(self) -> tuple[float, float]:
        """Return the start of the first frame and the end of the last frame, in seconds."""
        first, last = self.video.plan.positions[0], self.video.plan.positions[-1]
        last_s = float(self.lasting(last) * self.video.index.time_base)
        return self.time_s(first), self.time_s(last) + last_s


class _Film:
    """Draw frames and encode them into a file."""

    def __init__(self, container: OutputContainer, video: OpenVideo, tokens: TokenFates, size: tuple[int, int]) -> None:
        info, self._timing = video.index.info, _Timing(video)
        height, width = (side + side % 2 for side in size)
        self._painter = Painter(height, width, tokens, *self._timing.range_s)
        self._to_yuv, self._name, self._added = VideoReformatter(), info.path, 0
        rate = Fraction(info.average_fps).limit_denominator(1001)
        stream = cast("VideoStream", container.add_stream(_ENCODER, rate or 25, options=_OPTIONS))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = min(_MOST_THREADS, (os.cpu_count() or 1) + 1)
        stream.codec_context.time_base = self._time_base = video.index.time_base
        stream.colorspace, stream.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._container, self._stream = container, stream

    def add(self, position: int, rgb: NDArray[np.uint8]) -> None:
        """Draw on `rgb`, the frame [H, W, 3] at index `position`, and encode the frame."""
        planes = self._planes(rgb)
        drawn = self._painter.draw(planes.ravel(), self._timing.time_s(position))
        frame = av.VideoFrame.from_ndarray(drawn.reshape(planes.shape), format="yuv420p")
        frame.pts, frame.time_base = self._timing.ticks(position), self._time_base
        self._mux(frame)
        self._added += 1

    def finish(self) -> None:
        """Flush the encoder.

        Raises:
            VideoError: If no frame was added.
        """
        if not self._added:
            raise VideoError(f"no frame of {self._name} can be decoded: copy the file again")
        self._mux(None)

    def _planes(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `rgb` as YUV 4:2:0 planes; pad odd sides, because chroma is halved."""
        odd = [(0, side % 2) for side in rgb.shape[:2]]
        even = np.pad(rgb, (*odd, (0, 0)), "edge") if any(map(any, odd)) else np.ascontiguousarray(rgb)
        converted = self._to_yuv.reformat(
            av.VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        return cast("NDArray[np.uint8]", converted.to_ndarray())

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._timing.lasting_from(cast("int", packet.pts))
            self._container.mux(packet)
