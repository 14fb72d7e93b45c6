"""Plan, decode and resize the sampled frames of a file, one at a time, and report damage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from aot.errors import VideoError
from aot.types import VideoFrames
from aot.video.ahead import read_ahead
from aot.video.decode_decord import DecordReader
from aot.video.decode_pyav import PyavReader
from aot.video.decode_torchcodec import TorchcodecReader
from aot.video.file import open_file
from aot.video.picture import resize
from aot.video.sampling import plan_frames, segment_lengths

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from aot.config.schema import SamplingConfig
    from aot.video.file import VideoFile
    from aot.video.picture import Picture
    from aot.video.probe import FrameIndex
    from aot.video.sampling import FramePlan

__all__ = ["BegunVideo", "FrameStream", "OpenVideo", "VideoSource", "decode", "open_frames", "open_video"]

_Reader: TypeAlias = PyavReader | DecordReader | TorchcodecReader
_READERS: Mapping[str, Callable[[Path, FrameIndex, Sequence[int]], _Reader]] = {
    "pyav": PyavReader,
    "decord": DecordReader,
    "torchcodec": TorchcodecReader,
}

_GUESSED_COLORS = "the color matrix of the video is not supported: its colors are a guess and may look wrong"

OnFrame = Callable[[int, int], None]  # (done, planned)


def decode(
    path: str | Path, sampling: SamplingConfig, *, size: tuple[int, int] | None = None, on_frame: OnFrame | None = None
) -> VideoFrames:
    """Decode the sampled frames and resize them to `size` (rows, cols).

    If `size` is None, frames keep the size of the video, scaled to square pixels. Only one frame
    at a time is held at the size of the video. `on_frame(done, planned)` is called after each
    frame.

    Raises:
        VideoError: If the file is unreadable, the range has no frame, or no frame can be decoded.
        ConfigError: If the decoder named in `sampling` is not installed.
    """
    with open_frames(path, sampling, size=size) as stream:
        (frames,) = stream.segments(stream.planned, on_frame)
    return replace(frames, notices=stream.notices)


@contextmanager
def open_frames(
    path: str | Path, sampling: SamplingConfig, *, size: tuple[int, int] | None = None, ahead: int = 0
) -> Iterator[FrameStream]:
    """Yield a stream of the sampled frames; a thread decodes up to `ahead` frames in advance.

    Raises:
        VideoError: If the file is unreadable, or the range has no frame.
    """
    with open_video(path, sampling) as video, video.frames(size=size, ahead=ahead) as stream:
        yield stream


@contextmanager
def open_video(source: VideoSource, sampling: SamplingConfig) -> Iterator[OpenVideo]:
    """Yield a video whose frames can be read several times, even if `source` is a pipe.

    An `OpenVideo` is yielded unchanged.

    Raises:
        VideoError: If the file is unreadable, the range has no frame, or `sampling` is strict and
            the file is cut off.
    """
    if isinstance(source, OpenVideo):
        yield source
        return
    with open_file(source, sampling) as file:
        plan = plan_frames(file.index, sampling)
        yield OpenVideo(file.path, file.index, plan, sampling.decoder, sampling.strict)


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """A video file, its index and the frames to read; if `strict`, damage raises an error."""

    file: Path
    index: FrameIndex
    plan: FramePlan
    decoder: str
    strict: bool = False

    @contextmanager
    def frames(
        self, *, size: tuple[int, int] | None = None, ahead: int = 0, times_s: Collection[float] | None = None
    ) -> Iterator[FrameStream]:
        """Yield a stream of the planned frames.

        If `times_s` is not None, only planned frames with these times are read.
        """
        plan = self.plan if times_s is None else self.plan.at(times_s)
        reader = self._reader(plan)
        with closing(reader.pictures):
            stream = FrameStream(self.index, plan, reader.pictures, size, strict=self.strict)
            if not ahead:
                yield stream
                return
            with closing(read_ahead(stream.images, ahead, reader.give_up)) as stream.images:
                yield stream

    @contextmanager
    def pictures(self, times_s: Collection[float]) -> Iterator[Iterator[tuple[float, NDArray[np.uint8]]]]:
        """Yield an iterator over (time, picture [H, W, 3]) of the frames with times `times_s`.

        Pictures keep their decoded size, even if their pixels are not square. torch is not used.
        """
        plan = self.plan.at(times_s)
        times = dict(zip(plan.positions, plan.timestamps_s, strict=True))
        with closing(self._reader(plan).pictures) as pictures:
            yield ((times[picture.position], picture.rgb) for picture in pictures)

    @contextmanager
    def begun(self, *, size: tuple[int, int], ahead: int) -> Iterator[BegunVideo]:
        """Yield this video; a thread already decodes up to `ahead` of the planned frames.

        Raises:
            VideoError: If the first frame is damaged and `strict` is set.
        """
        with self.frames(size=size, ahead=ahead) as stream:
            stream.begin()
            yield BegunVideo(
                self.file, self.index, self.plan, self.decoder, self.strict, size=size, streams=iter([stream])
            )

    def _reader(self, plan: FramePlan) -> _Reader:
        return _READERS[self.decoder](self.file, self.index, plan.positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunVideo(OpenVideo):
    """A video whose decoding has begun.

    Attributes:
        size: rows and columns of the frames that are being decoded.
        streams: yields the stream of these frames once.
    """

    size: tuple[int, int]
    streams: Iterator[FrameStream]

    @contextmanager
    def frames(
        self, *, size: tuple[int, int] | None = None, ahead: int = 0, times_s: Collection[float] | None = None
    ) -> Iterator[FrameStream]:
        """Yield the stream that has begun, the first time that it fits; otherwise a new stream."""
        begun = next(self.streams, None) if times_s is None and size == self.size else None
        if begun is not None:
            yield begun
            return
        with OpenVideo.frames(self, size=size, ahead=ahead, times_s=times_s) as stream:
            yield stream


VideoSource: TypeAlias = "str | Path | VideoFile | OpenVideo"


class FrameStream:
    """The sampled frames of an open video.

    Attributes:
        source: description of the video.
        planned: number of frames to decode.
        images: iterator over (index in `FrameIndex.pts`, resized image [3, H, W]) of the frames not
            yet read.
        decode_ms: time spent so far on decoding and resizing, in milliseconds.
    """

    def __init__(
        self,
        index: FrameIndex,
        plan: FramePlan,
        pictures: Generator[Picture, None, None],
        size: tuple[int, int] | None,
        *,
        strict: bool = False,
    ) -> None:
        self.source, self.planned = index.info, len(plan.positions)
        if size is None and index.decoded_size is not None:
            size = index.info.height, index.info.width
        self.images = self._resized(pictures, size)
        self.decode_ms = 0.0
        self._plan, self._strict = plan, strict
        self._kept: set[int] = set()
        self._damaged: set[int] = set()
        self._colors_guessed = False

    def begin(self) -> None:
        """Decode the first frame now; a thread that reads ahead goes on with the next ones."""
        first, rest = list(islice(self.images, 1)), self.images

        def images() -> Generator[tuple[int, Tensor], None, None]:
            yield from first
            yield from rest

        self.images = images()

    def segments(self, most: int, on_frame: OnFrame | None = None, together: int = 1) -> Iterator[VideoFrames]:
        """Yield all frames once, in chunks of similar length with at most `most` frames each.

        The length of every chunk except the last is a multiple of `together`.

        Raises:
            VideoError: If no frame can be decoded, or if `strict` and a frame is lost or damaged.
            ConfigError: If the decoder is not installed.
        """
        import torch

        times = dict(zip(self._plan.positions, self._plan.timestamps_s, strict=True))
        for chosen in segment_lengths(self.planned, most, together):
            pixels: Tensor | None = None
            positions: list[int] = []
            for position, image in islice(self.images, chosen):
                if pixels is None:
                    pixels = torch.empty((chosen, *image.shape), dtype=torch.uint8)
                pixels[len(positions)] = image
                positions.append(position)
                self._kept.add(position)
                if on_frame is not None:
                    on_frame(len(self._kept), self.planned)
            if pixels is None:
                break
            yield VideoFrames(pixels[: len(positions)], tuple(times[position] for position in positions), self.source)
        if not self._kept:
            raise VideoError(
                f"none of the {self.planned} frames sampled from {self.source.path} can be decoded: "
                "copy the file again, or choose another --start and --end"
            )

    def _resized(
        self, pictures: Generator[Picture, None, None], size: tuple[int, int] | None
    ) -> Generator[tuple[int, Tensor], None, None]:
        """Yield (position, resized image [3, H, W]) for each frame that can be decoded."""
        awaited = iter(self._plan.positions)
        start = time.perf_counter()
        for picture in pictures:
            if self._strict and (picture.position != next(awaited) or picture.damaged):
                raise self._refusal(picture.position)
            image = resize(picture.rgb, size)
            size = (image.shape[1], image.shape[2])  # keep the first size: a stream may change its size midway
            if picture.damaged:
                self._damaged.add(picture.position)
            self._colors_guessed |= picture.colors_guessed
            position = picture.position
            del picture  # free the full size before the next one is decoded
            self.decode_ms += (time.perf_counter() - start) * 1e3
            yield position, image
            start = time.perf_counter()
        if self._strict and (lost := next(awaited, None)) is not None:
            raise self._refusal(lost)

    def _refusal(self, position: int) -> VideoError:
        time_s = self._plan.timestamps_s[self._plan.positions.index(position)]
        return VideoError(
            f"{self.source.path} is damaged near {time_s:.1f} s, which --strict refuses: copy the file again"
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """Return warnings for the user, one sentence each; complete after the last chunk."""
        damage = _damage_notices(self._plan, self._kept, self._damaged)
        return (*self._plan.notices, *damage, *((_GUESSED_COLORS,) if self._colors_guessed else ()))


def _damage_notices(plan: FramePlan, kept: Collection[int], damaged: Collection[int]) -> tuple[str, ...]:
    times, planned = dict(zip(plan.positions, plan.timestamps_s, strict=True)), len(plan.positions)
    lost = [position for position in plan.positions if position not in kept]
    notices = []
    if lost:
        notices.append(
            f"the video is damaged: {len(lost)} of {planned} sampled frames are lost "
            f"(the first at {times[lost[0]]:.1f} s); continuing with {len(kept)}"
        )
    if damaged:
        notices.append(
            f"{len(damaged)} of {planned} sampled frames are damaged or follow damaged data "
            f"(the first at {times[min(damaged)]:.1f} s) and may look wrong"
        )
    return tuple(notices)
