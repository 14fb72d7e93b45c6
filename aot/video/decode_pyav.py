"""Decoding chosen frames with PyAV: seek to the next keyframe when that skips something, else decode on."""

from __future__ import annotations

from bisect import bisect_right
from itertools import chain, dropwhile
from typing import TYPE_CHECKING, cast

from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from aot.video.picture import Picture, upright
from aot.video.source import open_container, packets

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from aot.video.probe import FrameIndex

__all__ = ["read_pictures"]


class _OvershotError(Exception):
    """A seek landed behind its target."""


def read_pictures(file: Path, index: FrameIndex, positions: Sequence[int]) -> Generator[Picture, None, None]:
    """Decode the frames at `positions` (ascending, in `index.pts`), in order, leaving out what is damaged.

    A frame is taken only if its presentation time is the one asked for. Where the container's seeking
    turns out to be wrong, the rest is decoded from the start without it.
    """
    done = 0
    for seeking in (not index.counted, False):
        try:
            with open_container(file, index.info.path) as container:
                player = _Player(container, index)
                for position in positions[done:]:
                    frame = player.frame_at(index.pts[position], seeking=seeking)
                    if frame is not None:
                        yield player.picture(frame, position)
                    done += 1
            return
        except _OvershotError:
            continue


class _Player:
    """An open stream and the frame that was decoded last.

    _reached: the latest presentation time decoded or sought so far.
    """

    def __init__(self, container: InputContainer, index: FrameIndex) -> None:
        self._container, self._index = container, index
        self._stream = next(s for s in container.streams.video if s.index == index.info.stream_index)
        self._stream.thread_type = "AUTO"
        self._reformatter = VideoReformatter()
        self._frames = self._timed(_decode(container, self._stream))
        self._current: tuple[int, VideoFrame] | None = None
        self._reached = index.keyframes[0] if index.keyframes else index.pts[0]

    def frame_at(self, pts: int, *, seeking: bool) -> VideoFrame | None:
        """The frame shown from `pts` on, or None if it does not decode. Calls come in ascending order."""
        before = bisect_right(self._index.keyframes, pts)
        keyframe = self._index.keyframes[before - 1] if before else self._reached
        if seeking and keyframe > self._reached:
            self._seek(keyframe, pts)
        while self._current is None or self._current[0] < pts:
            self._current = next(self._frames, None)
            if self._current is None:
                return None
            self._reached = max(self._reached, self._current[0])
        return self._current[1] if self._current[0] == pts else None

    def picture(self, frame: VideoFrame, position: int) -> Picture:
        # One reformatter for all frames keeps its conversion tables.
        rgb = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return Picture(
            position, upright(cast("NDArray[np.uint8]", rgb), self._index.info.rotation_degrees), frame.is_corrupt
        )

    def _seek(self, keyframe: int, pts: int) -> None:
        try:
            self._container.seek(keyframe, stream=self._stream)
        except FFmpegError as error:
            raise _OvershotError from error
        self._frames = self._timed(_decode(self._container, self._stream))
        self._current, self._reached = next(self._frames, None), keyframe
        if self._current is None or self._current[0] > pts:
            raise _OvershotError

    def _timed(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        """Each frame with its presentation time in `index.pts`."""
        if self._index.counted:
            return zip(self._index.pts, frames, strict=False)
        return ((frame.pts, frame) for frame in frames if frame.pts is not None)


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The stream's frames from the next keyframe on, in the order they are shown, without undecodable ones."""
    readable = dropwhile(lambda packet: not packet.is_keyframe, packets(container, stream))
    for packet in chain(readable, (None,)):  # None empties the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            continue
        yield from frames
