"""Decode chosen frames with PyAV; seek to a keyframe if this saves decoding frames."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, dropwhile
from typing import TYPE_CHECKING

from av.error import FFmpegError

from aot.video.colors import RgbConverter
from aot.video.orientation import Orientation
from aot.video.picture import Picture
from aot.video.pyav import prepare_decoder
from aot.video.source import open_container, packets
from aot.video.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from aot.video.probe import FrameIndex

__all__ = ["PyavReader"]


class _OvershotError(Exception):
    """Raised if a seek ends after its target frame."""


class PyavReader:
    """Read the frames at `positions` (ascending indices into `index.pts`), in order.

    Frames that cannot be decoded are left out.
    """

    def __init__(self, file: Path, index: FrameIndex, positions: Sequence[int]) -> None:
        self.pictures = _pictures(file, index, positions)

    def give_up(self) -> None:
        """Do nothing: the next picture never takes long."""


def _pictures(file: Path, index: FrameIndex, positions: Sequence[int]) -> Generator[Picture, None, None]:
    """Yield the pictures at `positions`; seek to keyframes if the file supports it.

    Frames are found by their presentation times, or by counting if `index.counted`. If a seek ends
    after its target, the remaining frames are decoded from the start of the file without seeking.
    """
    done = 0
    for seeking in (not index.counted and not index.restarts, False):
        try:
            with open_container(file, index.info.path) as container:
                player = _Player(container, index)
                for position in positions[done:]:
                    # No variable holds the picture, so the consumer can free it before the next.
                    if player.shows(position, seeking=seeking):
                        yield player.picture()
                    done += 1
            return
        except _OvershotError:
            continue


class _Player:
    """An open stream and its most recently decoded frame.

    `_position` is the index of that frame in `index.pts`, or -1 before the first frame.
    Frames with an index below `_doubtful_until` may depend on lost frames.
    """

    def __init__(self, container: InputContainer, index: FrameIndex) -> None:
        self._container, self._index = container, index
        self._stream = next(s for s in container.streams.video if s.index == index.info.stream_index)
        prepare_decoder(self._stream, threads=True)
        self._converter = RgbConverter()
        self._orientation = Orientation(index.info.rotation_degrees, index.info.mirrored)
        self._frames = self._numbered_frames()
        self._frame: VideoFrame | None = None
        self._position, self._doubtful_until = -1, 0

    def shows(self, position: int, *, seeking: bool) -> bool:
        """Decode up to the frame at `position`; return whether this frame was decoded.

        `position` must increase from call to call. If `seeking`, first seek if this skips frames.
        """
        keyframe = self._keyframe_up_to(position)
        if seeking and keyframe > max(0, self._position):
            self._seek(keyframe, position)
        while self._position < position and self._advance():
            pass
        return self._frame is not None and self._position == position

    def picture(self) -> Picture:
        """Return the picture of the current frame; call this once per frame."""
        assert self._frame is not None
        rgb, colors_guessed = self._converter.convert(self._frame)
        damaged = self._frame.is_corrupt or self._position < self._doubtful_until
        self._frame = None  # free its memory for the next frame
        return Picture(self._position, self._orientation.upright(rgb), damaged, colors_guessed)

    def _seek(self, keyframe: int, position: int) -> None:
        """Seek to `keyframe`; raise _OvershotError if the seek fails or ends after `position`."""
        try:
            self._container.seek(self._index.pts[keyframe], stream=self._stream)
        except FFmpegError as error:
            raise _OvershotError from error
        self._frames = self._numbered_frames()
        self._position = keyframe - 1
        if not self._advance() or self._position > position:
            raise _OvershotError

    def _advance(self) -> bool:
        """Decode the next frame; return False at the end of the stream."""
        for position, frame in self._frames:
            if position > self._position:
                if position > self._position + 1:
                    self._doubtful_until = self._keyframe_from(position)
                self._position, self._frame = position, frame
                return True
        return False

    def _numbered_frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """Return an iterator over (position in `index.pts`, frame) of the next frames."""
        frames = _decode(self._container, self._stream)
        if self._index.counted:
            return enumerate(frames)
        # Not a generator, which would hold a frame while the next frame is decoded.
        return filter(lambda numbered: numbered[0] >= 0, map(self._numbered, frames))

    def _numbered(self, frame: VideoFrame) -> tuple[int, VideoFrame]:
        """Return (position, `frame`); the position is -1 if `index.pts` lacks the frame's time."""
        pts, all_pts = frame.pts, self._index.pts
        position = len(all_pts) if pts is None else bisect_left(all_pts, pts)
        return (position if position < len(all_pts) and all_pts[position] == pts else -1), frame

    def _keyframe_up_to(self, position: int) -> int:
        count = bisect_right(self._index.keyframes, position)
        return self._index.keyframes[count - 1] if count else 0

    def _keyframe_from(self, position: int) -> int:
        count = bisect_left(self._index.keyframes, position)
        return self._index.keyframes[count] if count < len(self._index.keyframes) else len(self._index.pts)


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield the decodable frames from the next keyframe on, in display order."""
    placed = map(Timeline.of(container, stream).place, packets(container, stream))
    readable = dropwhile(lambda packet: not packet.is_keyframe, placed)
    for packet in chain(readable, (None,)):  # None flushes the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            continue
        while frames:
            yield frames.pop(0)
