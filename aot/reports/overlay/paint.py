"""Drawing on a picture what became of its tokens, with one multiplication and one addition per sample.

All that a frame gets is drawn once as a map of inks; an ink lets so much of the picture through and adds a colour.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aot.reports.provenance import Fate, fates

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from aot.types import CompressedTokens, Provenance

    Bytes = NDArray[np.uint8]
    Words = NDArray[np.uint16]
    Colour = tuple[int, int, int]

__all__ = ["INKS", "OUTLINE_COLOURS", "Ink", "Layout", "Painter", "TokenFates", "token_fates", "yuv"]

# Okabe and Ito's palette, which the colour-blind can tell apart too.
OUTLINE_COLOURS: Mapping[Fate, Colour] = {
    Fate.KEPT: (0x56, 0xB4, 0xE9),
    Fate.GATHERED: (0xCC, 0x79, 0xA7),
    Fate.LOCAL_ANCHOR: (0x00, 0x72, 0xB2),
    Fate.GLOBAL_ANCHOR: (0xE6, 0x9F, 0x00),
    Fate.DISTINCT: (0x00, 0x9E, 0x73),
}
_YELLOW, _WHITE, _GREY, _BLACK = (0xF0, 0xE4, 0x42), (255, 255, 255), (150, 150, 150), (0, 0, 0)


class Ink(NamedTuple):
    """luma, chroma: the shares of the picture's brightness and colour that show through, over `colour`."""

    luma: float
    chroma: float
    colour: Colour = _BLACK


# A map holds a fate's own number within its cell, and these.
_STRIPE, _OUTLINE = len(Fate), len(Fate) + 1
_BORDER = 2 * len(Fate) + 1
_BORDER_INSIDE, _STRIP, _TICK, _KEY_TICK = range(_BORDER + 1, _BORDER + 5)
INKS: Mapping[int, Ink] = {
    **{int(fate): Ink(1, 1) for fate in Fate},
    **{_OUTLINE + fate: Ink(0, 0, colour) for fate, colour in OUTLINE_COLOURS.items()},
    Fate.DISCARDED: Ink(0.25, 0.4),
    Fate.MERGED: Ink(0.55, 0.7),
    _STRIPE: Ink(0.35, 0.55),
    _BORDER: Ink(0, 0, _YELLOW),
    _BORDER_INSIDE: Ink(0, 0),
    _STRIP: Ink(0.15, 0.15),
    _TICK: Ink(0, 0, _GREY),
    _KEY_TICK: Ink(0, 0, _YELLOW),
}


@dataclass(frozen=True, slots=True)
class TokenFates:
    """What became of a video's tokens: uint8 [F, n], values of `Fate`, on a grid (rows, cols) spread over the picture.

    timestamps_s: of the F frames, ascending. keyframes: those that others are held against; none without clips.
    """

    fates: Tensor
    grid: tuple[int, int]
    timestamps_s: Sequence[float]
    keyframes: Collection[int] = ()


def token_fates(tokens: CompressedTokens, origin: Provenance) -> TokenFates:
    """As the method left them."""
    grouped = any(len(clip) > 1 for clip in tokens.clips)
    keyframes = frozenset(clip.first for clip in tokens.clips) if grouped else frozenset()
    return TokenFates(fates(tokens, origin), tokens.grid, tokens.timestamps_s, keyframes)


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of what is drawn, in pixels of a picture of this size; all even, as colour has half the resolution."""

    height: int
    width: int

    @property
    def outline(self) -> int:
        return _even(min(self.height, self.width) / 240)

    @property
    def border(self) -> int:
        return _even(min(self.height, self.width) / 90)

    @property
    def strip(self) -> int:
        return max(4, _even(self.height / 45))

    @property
    def tick(self) -> int:
        return _even(self.width / 640)

    def left(self, share: float, wide: int) -> int:
        """Where a mark of this width begins, at a share of the time from 0 to 1."""
        return 2 * round(share * (self.width - wide) / 2)


class Painter:
    """Draws on pictures of one even size. begin_s, end_s: the times at the two ends of the strip."""

    def __init__(self, height: int, width: int, tokens: TokenFates, begin_s: float, end_s: float) -> None:
        self.layout = Layout(height, width)
        self._tokens = tokens
        self._begin_s, self._span_s = begin_s, max(end_s - begin_s, 1e-9)
        rows, cols = tokens.grid
        self._cells = tokens.fates.cpu().numpy().reshape(-1, rows, cols)
        self._row, self._col = _cells_of(height, rows), _cells_of(width, cols)
        self._edge = _edges(self._row, self.layout.outline)[:, None] | _edges(self._col, self.layout.outline)
        times = np.asarray(tokens.timestamps_s, np.float64)
        self._between = (times[1:] + times[:-1]) / 2
        self._frame = -1
        self._gain, self._bias = np.empty(0, np.uint16), np.empty(0, np.uint16)
        self._work = np.empty(height * width * 3 // 2, np.uint16)

    def draw(self, planes: Bytes, time_s: float) -> Bytes:
        """The planes of a YUV 4:2:0 picture, flat [H * W * 3 / 2], BT.709 of limited range, with all that is drawn."""
        frame = int(np.searchsorted(self._between, time_s))  # the frame nearest in time, the earlier one on a tie
        if frame != self._frame:
            self._frame = frame
            self._gain, self._bias = _blend(self.inks(frame))
        np.multiply(planes, self._gain, out=self._work)
        np.add(self._work, self._bias, out=self._work)
        np.right_shift(self._work, 8, out=self._work)
        drawn: Bytes = self._work.astype(np.uint8)
        self._draw_cursor(drawn, time_s)
        return drawn

    def inks(self, frame: int) -> Bytes:
        """[H, W], which of `INKS` each pixel gets while this sampled frame is the nearest."""
        inks: Bytes = self._cells[frame][self._row[:, None], self._col]
        stripes = _stripes(self.layout)
        inks[(inks == Fate.MERGED) & stripes] = _STRIPE
        inks[self._edge & (inks >= Fate.KEPT) & (inks < _STRIPE)] += _OUTLINE
        self._ink_strip(inks)
        if frame in self._tokens.keyframes:
            self._ink_border(inks)
        return inks

    def _ink_strip(self, inks: Bytes) -> None:
        layout = self.layout
        strip = inks[-layout.strip :]
        strip[:] = _STRIP
        for number, time_s in enumerate(self._tokens.timestamps_s):
            left = layout.left(self._share(time_s), layout.tick)
            if number in self._tokens.keyframes:
                strip[:, left : left + layout.tick] = _KEY_TICK
            else:
                ticks = strip[layout.strip // 2 :, left : left + layout.tick]
                ticks[ticks == _STRIP] = _TICK

    def _ink_border(self, inks: Bytes) -> None:
        above = inks[: -self.layout.strip]
        wide = self.layout.border
        for inset, ink, thick in ((0, _BORDER, wide), (wide, _BORDER_INSIDE, 2)):
            inside = above[inset : len(above) - inset, inset : above.shape[1] - inset]
            inside[:thick] = inside[-thick:] = inside[:, :thick] = inside[:, -thick:] = ink

    def _draw_cursor(self, planes: Bytes, time_s: float) -> None:
        layout, wide = self.layout, 2 * self.layout.tick
        left = layout.left(self._share(time_s), wide)
        for plane, shrink, value in zip(_planes(planes, layout), (1, 2, 2), yuv(_WHITE), strict=True):
            plane[-layout.strip // shrink :, left // shrink : (left + wide) // shrink] = value

    def _share(self, time_s: float) -> float:
        return min(max((time_s - self._begin_s) / self._span_s, 0.0), 1.0)


def yuv(colour: Colour) -> tuple[int, int, int]:
    """An RGB colour in BT.709 of limited range."""
    red, green, blue = (value / 255 for value in colour)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return round(16 + 219 * luma), round(128 + 224 * (blue - luma) / 1.8556), round(128 + 224 * (red - luma) / 1.5748)


def _blend(inks: Bytes) -> tuple[Words, Words]:
    """Gain and bias in 256ths for every sample of the planes, from the inks [H, W] of the pixels."""
    gains, biases = np.zeros((2, 3, len(INKS) + len(Fate)), np.uint16)
    for number, ink in INKS.items():
        for plane, (share, value) in enumerate(zip((ink.luma, ink.chroma, ink.chroma), yuv(ink.colour), strict=True)):
            gains[plane, number] = round(256 * share)
            biases[plane, number] = (256 - gains[plane, number]) * value
    samples = (inks, inks[::2, ::2], inks[::2, ::2])
    gain, bias = (
        np.concatenate([table[plane][sample].ravel() for plane, sample in enumerate(samples)])
        for table in (gains, biases)
    )
    return gain, bias


def _planes(planes: Bytes, layout: Layout) -> tuple[Bytes, Bytes, Bytes]:
    """Views of Y [H, W], U and V [H / 2, W / 2]."""
    half = layout.height // 2, layout.width // 2
    luma, quarter = layout.height * layout.width, half[0] * half[1]
    return (
        planes[:luma].reshape(layout.height, layout.width),
        planes[luma : luma + quarter].reshape(half),
        planes[luma + quarter :].reshape(half),
    )


def _cells_of(pixels: int, cells: int) -> NDArray[np.int64]:
    """[pixels], the cell each pixel is in; two neighbours that share a colour sample are in the same one."""
    return np.repeat((2 * np.arange(pixels // 2) + 1) * cells // pixels, 2)


def _edges(cell: NDArray[np.int64], wide: int) -> NDArray[np.bool_]:
    """[pixels], whether a pixel is within `wide` of the end of its cell."""
    ends = np.r_[True, cell[1:] != cell[:-1], True]
    near = np.zeros(len(cell), np.bool_)
    for step in range(wide):
        near[step:] |= ends[: len(cell) - step]
        near[: len(cell) - step] |= ends[1 + step :]
    return near


def _stripes(layout: Layout) -> NDArray[np.bool_]:
    """[H, W], every other one of the stripes that fall to the left."""
    wide = 2 * layout.border
    down, across = np.ogrid[: layout.height, : layout.width]
    stripes: NDArray[np.bool_] = (down + across) // wide % 2 == 0
    return stripes


def _even(pixels: float) -> int:
    return 2 * max(1, round(pixels / 2))
