"""Make timestamps continue where they restart within a file."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from aot.video.pyav import as_fraction

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Timeline"]

_MOST_GAP_S = 3600
_TIMES_MAY_WRAP = 0x0200  # AVFMT_TS_DISCONT of libavformat/avformat.h


class Timeline:
    """Shift the timestamps of a stream's packets, so that they continue after each restart.

    In recordings joined byte by byte (`cat a.ts b.ts`), timestamps restart at each part. A part
    begins at a keyframe whose pts and dts are below the largest pts and dts of the current part. If
    timestamps may wrap around, a keyframe whose dts is more than an hour above the largest dts also
    begins a part. The shifted part begins one frame after the last frame of the previous part.

    Attributes:
        restarts: number of restarts so far.
    """

    def __init__(self, time_base: Fraction, *, wraps: bool) -> None:
        self.restarts = 0
        self._most_gap_ticks = _MOST_GAP_S / time_base if wraps else None
        self._shift = 0
        self._last_pts: int | None = None  # largest of the current part so far, unshifted
        self._last_dts: int | None = None

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> Timeline:
        """Return a timeline for `stream`; call this before the first packet is read."""
        wraps = bool(container.format.flags & _TIMES_MAY_WRAP)
        return cls(as_fraction(stream.time_base) or Fraction(1, 1_000_000), wraps=wraps)

    def place(self, packet: Packet[VideoStream]) -> Packet[VideoStream]:
        """Shift the timestamps of `packet`, the next one in file order, and return `packet`."""
        pts, dts = packet.pts, packet.dts if packet.dts is not None else packet.pts
        if pts is None or dts is None:
            return packet
        if self._last_pts is None or self._last_dts is None:
            self._last_pts, self._last_dts = pts, dts
        elif packet.is_keyframe and self._begins_part(pts, dts, self._last_pts, self._last_dts):
            step = packet.duration or 1
            self._shift += max(self._last_pts + step - pts, self._last_dts + step - dts)
            self.restarts += 1
            self._last_pts, self._last_dts = pts, dts
        else:
            self._last_pts, self._last_dts = max(pts, self._last_pts), max(dts, self._last_dts)
        packet.pts = pts + self._shift
        if packet.dts is not None:
            packet.dts += self._shift
        return packet

    def _begins_part(self, pts: int, dts: int, last_pts: int, last_dts: int) -> bool:
        if self._most_gap_ticks is not None and dts - last_dts > self._most_gap_ticks:
            return True
        return pts < last_pts and dts < last_dts
