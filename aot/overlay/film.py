"""Reading a clip, drawing on each of its frames and encoding them again, one at a time and each when it was shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.codec
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from aot.errors import ConfigError, OutputError, VideoError, first_line
from aot.files import check_writable, write_whole
from aot.overlay.paint import Painter, TokenFates
from aot.video import VideoFile, open_video

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from aot.config import SamplingConfig
    from aot.video import OpenVideo

__all__ = ["check_overlay", "write_overlay"]

_ENCODER = "libx264"
# Without frames that are predicted from later ones, a frame's time and duration are stored as they are.
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_AHEAD = 4  # frames decoded while others are drawn and encoded

OnFrame = Callable[[int, int], None]  # (done, all)


def check_overlay(source: str | Path | VideoFile, output: Path, *, overwrite: bool) -> None:
    """Fail early, before the long work that `write_overlay` comes after.

    Raises:
        ConfigError: the name does not end in .mp4.
        OutputError: it is the source's own or cannot be written, or PyAV has no encoder.
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
    """Write the frames that `source` shows in the range of `sampling`, with `tokens` drawn on them, as H.264 without
    sound; upright, at their own size (an odd one grows by a pixel), each shown as long as it was, from 0 on.

    Raises:
        VideoError: as `aot.video.open_video`, or no frame decodes.
        ConfigError, OutputError: as `check_overlay`, or the disk is full.
    """
    check_overlay(source, output, overwrite=overwrite)
    every_frame = replace(sampling, fps=None, frames=sys.maxsize, select_frames=None, spacing="index")
    with open_video(source, every_frame) as video:
        write_whole(output, lambda file: _write(video, file, tokens, on_progress), overwrite=overwrite)


def _write(video: OpenVideo, file: Path, tokens: TokenFates, on_progress: OnFrame) -> None:
    info, positions = video.index.info, video.plan.positions
    with (
        _explained(),
        video.frames(size=(info.height, info.width), ahead=_AHEAD) as stream,
        av.open(str(file), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        film = _Film(container, video, tokens)
        for position, image in stream.images:
            film.add(position, image.permute(1, 2, 0).numpy())
            on_progress(position - positions[0] + 1, len(positions))
        film.finish()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):  # which `write_whole` explains
            raise
        raise OutputError(f"the overlay cannot be encoded ({first_line(error)}); convert the clip first") from error


@dataclass(frozen=True, slots=True)
class _Timing:
    """When the frames are shown, by their position in the clip: seconds from its first frame, and ticks of `time_base`
    from the first one of the range. lasting: ticks until the next frame, by those times.
    """

    times_s: Mapping[int, float]
    ticks: Mapping[int, int]
    lasting: Mapping[int, int]
    time_base: Fraction

    @classmethod
    def of(cls, video: OpenVideo) -> _Timing:
        index, positions = video.index, video.plan.positions
        end = index.pts[0] + round(Fraction(index.info.duration_s) / index.time_base)
        first, *following = (pts - index.pts[positions[0]] for pts in (*index.pts, end)[positions[0] :])
        shown = (first, *following[: len(positions)])
        return cls(
            times_s=dict(zip(positions, video.plan.timestamps_s, strict=True)),
            ticks=dict(zip(positions, shown, strict=False)),
            lasting={here: max(1, there - here) for here, there in pairwise(shown)},
            time_base=index.time_base,
        )

    @property
    def range_s(self) -> tuple[float, float]:
        """When the first frame comes and the last one goes."""
        first, last = min(self.times_s), max(self.times_s)
        last_s = float(self.lasting[self.ticks[last]] * self.time_base)
        return self.times_s[first], self.times_s[last] + last_s


class _Film:
    """What has been drawn, on its way into a file."""

    def __init__(self, container: OutputContainer, video: OpenVideo, tokens: TokenFates) -> None:
        info, self._timing = video.index.info, _Timing.of(video)
        height, width = (side + side % 2 for side in (info.height, info.width))
        self._painter = Painter(height, width, tokens, *self._timing.range_s)
        self._to_yuv, self._name, self._added = VideoReformatter(), info.path, 0
        rate = Fraction(info.average_fps).limit_denominator(1001)
        stream = cast("VideoStream", container.add_stream(_ENCODER, rate or 25, options=_OPTIONS))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = self._timing.time_base
        stream.colorspace, stream.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._container, self._stream = container, stream

    def add(self, position: int, rgb: NDArray[np.uint8]) -> None:
        """Draw on the picture [H, W, 3] at `position` and encode it."""
        planes = self._planes(rgb)
        drawn = self._painter.draw(planes.ravel(), self._timing.times_s[position])
        frame = av.VideoFrame.from_ndarray(drawn.reshape(planes.shape), format="yuv420p")
        frame.pts, frame.time_base = self._timing.ticks[position], self._timing.time_base
        self._mux(frame)
        self._added += 1

    def finish(self) -> None:
        """Empty the encoder.

        Raises:
            VideoError: it got no frame.
        """
        if not self._added:
            raise VideoError(f"no frame of {self._name} can be decoded: copy the file again")
        self._mux(None)

    def _planes(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
            packet.duration = self._timing.lasting[cast("int", packet.pts)]
            self._container.mux(packet)
