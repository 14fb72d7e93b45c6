"""Find packets whose frame no other frame refers to, by the headers in the packets."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["References"]

# Types of NAL units (ITU-T H.264, table 7-1): slices, parameters, what concerns one picture only.
_H264_SLICES, _H264_PARAMETERS, _H264_PASSING = frozenset(range(1, 6)), 7, frozenset((6, 9, 12))
# ITU-T H.265, table 7-1. Slices of these types are "sub-layer non-reference".
_H265_UNREFERENCED, _H265_PARAMETERS, _H265_PASSING = frozenset(range(0, 15, 2)), 33, frozenset((35, 38, 39, 40))
# Profiles whose parameters state the chroma format (ITU-T H.264, 7.3.2.1.1).
_H264_HIGH = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_CHROMA_444 = 3
# A packet of these codecs always has a whole picture. H.264 may have a packet for each field.
_WHOLE_PICTURES = frozenset(("hevc", "vp8", "vp9", "av1"))


class References:
    """Tell which packets of a stream later frames depend on; ask in decoding order.

    If the frame of another packet is left out, all other frames stay the same to the bit. Such
    frames are found in H.264 without fields and in H.265. Of other codecs, and as long as the
    parameters of the stream are unknown, every packet counts as needed.

    Args:
        codec: canonical name of the codec.
        header: what the container stores for the codec, once for the whole stream ("extradata").
    """

    def __init__(self, codec: str, header: bytes | None) -> None:
        self._codec = codec
        self._units: Callable[[bytes], Iterator[bytes]] = _units_after_start_codes
        self._progressive, self._top_layer = False, -1
        if header and codec in ("h264", "hevc"):
            try:
                self._read(header)
            except (IndexError, ValueError):
                self._progressive, self._top_layer = False, -1

    @property
    def whole_pictures(self) -> bool:
        """Return whether every packet has a whole picture, which no later packet completes."""
        return self._codec in _WHOLE_PICTURES or self._progressive

    def needed(self, packet: bytes | Packet[VideoStream]) -> bool:
        """Return whether frames after `packet`, the next one of the stream, may depend on it."""
        try:
            if self._codec == "h264":
                return self._needed_in_h264(bytes(packet))
            return self._codec != "hevc" or self._needed_in_h265(bytes(packet))
        except (IndexError, ValueError):  # damaged: let the decoder see it
            return True

    def _read(self, header: bytes) -> None:
        if header[0] != 1:  # start codes, as in the packets
            units = _units_after_start_codes(header)
        else:
            self._units = partial(_units_with_lengths, width=(header[4 if self._codec == "h264" else 21] & 3) + 1)
            units = _h264_parameters(header) if self._codec == "h264" else _h265_parameters(header)
        for unit in units:
            self._learn(unit)

    def _learn(self, unit: bytes) -> None:
        """Take over what the unit states of the stream, if it is a sequence parameter set."""
        if self._codec == "h264" and unit[0] & 31 == _H264_PARAMETERS:
            self._progressive = _without_fields(unit)
        if self._codec == "hevc" and unit[0] >> 1 == _H265_PARAMETERS:
            self._top_layer = max(self._top_layer, unit[2] >> 1 & 7)

    def _needed_in_h264(self, packet: bytes) -> bool:
        slices = 0
        for unit in self._units(packet):
            self._learn(unit)
            if unit[0] & 31 in _H264_SLICES and not unit[0] >> 5:
                slices += 1
            elif unit[0] & 31 not in _H264_PASSING:
                return True
        return not (slices and self._progressive)

    def _needed_in_h265(self, packet: bytes) -> bool:
        slices = 0
        for unit in self._units(packet):
            self._learn(unit)
            kind, view, layer = unit[0] >> 1, (unit[0] & 1) << 5 | unit[1] >> 3, (unit[1] & 7) - 1
            # A "non-reference" frame of a lower layer serves the frames of higher temporal layers.
            if kind in _H265_UNREFERENCED and not view and layer == self._top_layer:
                slices += 1
            elif kind not in _H265_PASSING:
                return True
        return not slices


def _units_after_start_codes(data: bytes) -> Iterator[bytes]:
    yield from data.split(b"\0\0\1")[1:]


def _units_with_lengths(data: bytes, width: int) -> Iterator[bytes]:
    """Yield the beginnings of the units; `width` is the number of bytes of each length."""
    at = 0
    while at < len(data):
        start = at + width
        at = start + int.from_bytes(data[at:start], "big")
        yield data[start : min(at, start + 1024)]
    if at != len(data):
        raise ValueError("a unit is cut off")


def _h264_parameters(header: bytes) -> Iterator[bytes]:
    """Yield the sequence parameter sets of a configuration record (ISO/IEC 14496-15, 5.3.3.1)."""
    yield from _listed(header, 6, header[5] & 31)


def _h265_parameters(header: bytes) -> Iterator[bytes]:
    """Yield all parameter sets of a configuration record (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range(header[22]):
        units = list(_listed(header, at + 3, int.from_bytes(header[at + 1 : at + 3], "big")))
        at += 3 + sum(2 + len(unit) for unit in units)
        yield from units


def _listed(data: bytes, at: int, count: int) -> Iterator[bytes]:
    """Yield `count` units from byte `at` on, each after its length in two bytes."""
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def _without_fields(parameters: bytes) -> bool:
    """Return whether a sequence parameter set (ITU-T H.264, 7.3.2.1.1) excludes field pictures.

    False also if it has scaling lists, which are rare and not read.
    """
    bits = _Bits(parameters[4:].replace(b"\0\0\3", b"\0\0"))
    bits.number()  # of the parameter set
    if parameters[1] in _H264_HIGH:
        if bits.number() == _CHROMA_444:
            bits.take(1)
        bits.number(), bits.number(), bits.take(1)  # depth of luma and chroma, bypass
        if bits.take(1):
            return False
    bits.number()  # size of frame_num
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(bits.number()):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()  # reference frames, gaps, width, height
    return bool(bits.take(1))


class _Bits:
    """Read bits from the first one on; raise a ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameters are cut off")
        return self._bits >> self._left & (1 << count) - 1

    def number(self) -> int:
        """Return the next number in Exp-Golomb code (ITU-T H.264, 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
