"""Decode the frames of an open stream: all in order, or only those that chosen ones depend on."""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, dropwhile, takewhile
from typing import TYPE_CHECKING

from av.error import FFmpegError

from aot.video.colors import RgbConverter
from aot.video.orientation import Orientation
from aot.video.picture import Picture
from aot.video.pyav import prepare_decoder
from aot.video.references import References
from aot.video.source import packets
from aot.video.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from threading import Event

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from aot.video.probe import FrameIndex

__all__ = ["IncompleteError", "OvershotError", "Player"]


class OvershotError(Exception):
    """Raised if a seek ends after its target frame."""


class IncompleteError(Exception):
    """Raised if a frame is lost or damaged while frames are left out on purpose."""


class Player:
    """An open stream and its most recently decoded frame.

    `_position` is the index of that frame in `index.pts`, or -1 before the first frame. Frames with
    an index below `_doubtful_until` may depend on lost frames. `_sent` has the indices of frames
    that the decoder was given and has not returned.
    """

    def __init__(self, container: InputContainer, index: FrameIndex, *, unwanted: Event, lanes: int = 1) -> None:
        self._container, self._index, self._unwanted = container, index, unwanted
        self._stream = next(s for s in container.streams.video if s.index == index.info.stream_index)
        prepare_decoder(self._stream, lanes=lanes)
        context = self._stream.codec_context
        self._references = References(context.codec.canonical_name, context.extradata)
        self._converter = RgbConverter()
        self._orientation = Orientation(index.info.rotation_degrees, index.info.mirrored)
        self._sent: set[int] = set()
        self._frame: VideoFrame | None = None
        self._position, self._doubtful_until = -1, 0
        self._frames = self._decoded(self._packets())

    def only_needed(self, positions: Sequence[int]) -> Iterator[Picture]:
        """Yield the pictures at `positions`, which have one keyframe, and decode little else.

        Frames that nothing refers to are left out, and so is all that follows the last picture.

        Raises:
            IncompleteError: If a decoded frame is lost, or if a picture is lost or damaged.
        """
        keyframe = self._index.keyframe_up_to(positions[0])
        if keyframe > 0:
            self._seek(keyframe)
        self._frames = self._decoded(self._needed(set(positions)), all_whole=True)
        for position in positions:
            while self._position < position:
                if not self._advance() or self._doubtful:
                    raise IncompleteError
            if self._position > position or self._damaged:
                raise IncompleteError
            yield self._picture()

    def in_order(self, positions: Iterable[int], *, seeking: bool) -> Iterator[Picture]:
        """Yield the pictures at `positions` that can be decoded; decode every frame on the way.

        Raises:
            OvershotError: If `seeking`, and a seek fails or ends after its target.
        """
        for position in positions:
            keyframe = self._index.keyframe_up_to(position)
            if seeking and keyframe > max(0, self._position):
                self._seek(keyframe)
                if not self._advance() or self._position > position:
                    raise OvershotError
            while self._position < position and self._advance():
                pass
            if self._frame is not None and self._position == position:
                yield self._picture()

    def rest(self) -> None:
        """Free the frames that the decoder holds."""
        self._stream.codec_context.flush_buffers()

    @property
    def _doubtful(self) -> bool:
        return self._position < self._doubtful_until

    @property
    def _damaged(self) -> bool:
        return self._doubtful or (self._frame is not None and self._frame.is_corrupt)

    def _picture(self) -> Picture:
        """Return the picture of the current frame; call this once per frame."""
        assert self._frame is not None
        damaged = self._damaged
        rgb, colors_guessed = self._converter.convert(self._frame)
        self._frame = None  # free its memory for the next frame
        return Picture(self._position, self._orientation.upright(rgb), damaged, colors_guessed)

    def _seek(self, keyframe: int) -> None:
        try:
            self._container.seek(self._index.pts[keyframe], stream=self._stream)
        except FFmpegError as error:
            raise OvershotError from error
        self._sent.clear()
        self._frames = self._decoded(self._packets())
        self._position = keyframe - 1

    def _advance(self) -> bool:
        """Decode the next frame; return False at the end of the stream."""
        for position, frame in self._frames:
            if position > self._position:
                if any(sent < position for sent in self._sent):
                    self._doubtful_until = self._index.keyframe_from(position)
                self._sent = {sent for sent in self._sent if sent > position}
                self._position, self._frame = position, frame
                return True
        return False

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Return an iterator over the packets from the next keyframe on."""
        placed = map(Timeline.of(self._container, self._stream).place, packets(self._container, self._stream))
        readable = dropwhile(lambda packet: not packet.is_keyframe, placed)
        return takewhile(lambda _: not self._unwanted.is_set(), readable)

    def _needed(self, missing: set[int]) -> Iterator[Packet[VideoStream]]:
        """Yield the next packets up to the last of those whose frames are `missing`.

        Packets that no other depends on are left out.
        """
        for packet in self._packets():
            position = self._position_at(packet.pts)
            if self._references.needed(packet) or position in missing:
                yield packet
                missing.discard(position)
                if not missing and self._references.whole_pictures:
                    return

    def _decoded(
        self, chosen: Iterable[Packet[VideoStream]], *, all_whole: bool = False
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Return an iterator over (position in `index.pts`, frame) of the decodable packets."""
        frames = _decode(self._stream, map(self._noted, chosen), all_whole=all_whole)
        if self._index.counted:
            return enumerate(frames)
        # Not a generator, which would hold a frame while the next frame is decoded.
        return filter(lambda numbered: numbered[0] >= 0, map(self._numbered, frames))

    def _noted(self, packet: Packet[VideoStream]) -> Packet[VideoStream]:
        if not self._index.counted and (position := self._position_at(packet.pts)) > self._position:
            self._sent.add(position)
        return packet

    def _numbered(self, frame: VideoFrame) -> tuple[int, VideoFrame]:
        return self._position_at(frame.pts), frame

    def _position_at(self, pts: int | None) -> int:
        """Return the position of the frame shown at `pts`, or -1 if there is none."""
        position = -1 if pts is None else bisect_left(self._index.pts, pts)
        return position if position < len(self._index.pts) and self._index.pts[position] == pts else -1


def _decode(stream: VideoStream, chosen: Iterator[Packet[VideoStream]], *, all_whole: bool) -> Iterator[VideoFrame]:
    """Yield the decodable frames in display order; if `all_whole`, an error is raised instead."""
    for packet in chain(chosen, (None,)):  # None flushes the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError as error:
            if all_whole:
                raise IncompleteError from error
            continue
        while frames:
            yield frames.pop(0)
