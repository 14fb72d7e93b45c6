"""Draw the fates of tokens on a picture, with one multiplication and one addition per sample.

For each sampled frame, a map with one ink per pixel is prepared once. An ink multiplies the pixel
by a share and adds a color.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aot.reports.fates import Fate, fates

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from aot.types import CompressedTokens

    Bytes = NDArray[np.uint8]
    Words = NDArray[np.uint16]
    Color = tuple[int, int, int]

__all__ = ["INKS", "OUTLINE_COLORS", "Ink", "Layout", "Painter", "TokenFates", "token_fates", "yuv"]

# The palette of Okabe and Ito, which color-blind people can distinguish too.
OUTLINE_COLORS: Mapping[Fate, Color] = {
    Fate.KEPT: (0x56, 0xB4, 0xE9),
    Fate.GATHERED: (0xCC, 0x79, 0xA7),
    Fate.LOCAL_ANCHOR: (0x00, 0x72, 0xB2),
    Fate.GLOBAL_ANCHOR: (0xE6, 0x9F, 0x00),
    Fate.DISTINCT: (0x00, 0x9E, 0x73),
}
_YELLOW, _WHITE, _GRAY, _BLACK = (0xF0, 0xE4, 0x42), (255, 255, 255), (150, 150, 150), (0, 0, 0)


class Ink(NamedTuple):
    """The shares of the picture's luma and chroma that remain, and a color to add."""

    luma: float
    chroma: float
    color: Color = _BLACK


# A map of inks has the value of a `Fate` inside a cell, and the following values elsewhere.
_STRIPE, _OUTLINE = len(Fate), len(Fate) + 1
_BORDER = 2 * len(Fate) + 1
_BORDER_INSIDE, _STRIP, _TICK, _KEY_TICK = range(_BORDER + 1, _BORDER + 5)
INKS: Mapping[int, Ink] = {
    **{int(fate): Ink(1, 1) for fate in Fate},
    **{_OUTLINE + fate: Ink(0, 0, color) for fate, color in OUTLINE_COLORS.items()},
    Fate.DISCARDED: Ink(0.25, 0.4),
    Fate.MERGED: Ink(0.55, 0.7),
    _STRIPE: Ink(0.35, 0.55),
    _BORDER: Ink(0, 0, _YELLOW),
    _BORDER_INSIDE: Ink(0, 0),
    _STRIP: Ink(0.15, 0.15),
    _TICK: Ink(0, 0, _GRAY),
    _KEY_TICK: Ink(0, 0, _YELLOW),
}


@dataclass(frozen=True, slots=True)
class TokenFates:
    """Hold the fates of a video's tokens.

    Attributes:
        fates: uint8 [F, n], values of `Fate`.
        grid: (rows, cols); the grid covers the whole picture.
        timestamps_s: times of the F frames, ascending.
        keyframes: indices of the first frames of clips; empty if every clip has one frame.
    """

    fates: Tensor
    grid: tuple[int, int]
    timestamps_s: Sequence[float]
    keyframes: Collection[int] = ()


def token_fates(tokens: CompressedTokens) -> TokenFates:
    """Return the fates of the tokens of a traced run."""
    grouped = any(len(clip) > 1 for clip in tokens.clips)
    keyframes = frozenset(clip.first for clip in tokens.clips) if grouped else frozenset()
    return TokenFates(fates(tokens), tokens.grid, tokens.timestamps_s, keyframes)


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of drawn marks in pixels; all are even, because chroma has half the resolution."""

    height: int
    width: int

    @property
    def outline(self) -> int:
        """Return the width of a cell's outline."""
        return _even(min(self.height, self.width) / 240)

    @property
    def border(self) -> int:
        """Return the width of a keyframe's border."""
        return _even(min(self.height, self.width) / 90)

    @property
    def strip(self) -> int:
        """Return the height of the time strip at the bottom."""
        return max(4, _even(self.height / 45))

    @property
    def tick(self) -> int:
        """Return the width of a frame's tick on the strip."""
        return _even(self.width / 640)

    def left(self, share: float, wide: int) -> int:
        """Return the left edge of a mark of width `wide` at the relative time `share` (0 .. 1)."""
        return 2 * round(share * (self.width - wide) / 2)


class Painter:
    """Draw on pictures of one size with even sides.

    Args:
        height: height of the pictures, even.
        width: width of the pictures, even.
        tokens: the fates to draw.
        begin_s: the time at the left end of the strip.
        end_s: the time at the right end of the strip.
    """

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
        """Return a copy of `planes` with fates, time strip and time cursor drawn on it.

        Args:
            planes: YUV 4:2:0, flat [H * W * 3 / 2], BT.709 in limited range.
            time_s: time of the picture. The fates of the nearest sampled frame are drawn; ties go
                to the earlier frame.
        """
        frame = int(np.searchsorted(self._between, time_s))
        if frame != self._frame:  # gain and bias change only with the sampled frame
            self._frame = frame
            self._gain, self._bias = _blend(self.inks(frame))
        # (picture * gain + bias) / 256 in 16-bit integers, without a new array.
        np.multiply(planes, self._gain, out=self._work)
        np.add(self._work, self._bias, out=self._work)
        np.right_shift(self._work, 8, out=self._work)
        drawn: Bytes = self._work.astype(np.uint8)
        self._draw_cursor(drawn, time_s)
        return drawn

    def inks(self, frame: int) -> Bytes:
        """Return the map of inks (keys of `INKS`), [H, W], for the sampled frame `frame`."""
        inks: Bytes = self._cells[frame][self._row[:, None], self._col]
        stripes = _stripes(self.layout)
        inks[(inks == Fate.MERGED) & stripes] = _STRIPE
        inks[self._edge & (inks >= Fate.KEPT) & (inks < _STRIPE)] += _OUTLINE
        self._ink_strip(inks)
        if frame in self._tokens.keyframes:
            self._ink_border(inks)
        return inks

    def _ink_strip(self, inks: Bytes) -> None:
        """Draw the time strip: one tick per sampled frame, with full height for keyframes."""
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


def yuv(color: Color) -> tuple[int, int, int]:
    """Return an RGB color as Y, Cb, Cr in BT.709 with limited range."""
    red, green, blue = (value / 255 for value in color)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return round(16 + 219 * luma), round(128 + 224 * (blue - luma) / 1.8556), round(128 + 224 * (red - luma) / 1.5748)


def _blend(inks: Bytes) -> tuple[Words, Words]:
    """Return gain and bias, in units of 1/256, of every YUV sample; `inks` is [H, W]."""
    # 1. Tables by plane and ink.
    gains, biases = np.zeros((2, 3, len(INKS) + len(Fate)), np.uint16)
    for number, ink in INKS.items():
        for plane, (share, value) in enumerate(zip((ink.luma, ink.chroma, ink.chroma), yuv(ink.color), strict=True)):
            gains[plane, number] = round(256 * share)
            biases[plane, number] = (256 - gains[plane, number]) * value
    # 2. Look up every sample; chroma uses every second pixel of every second row.
    samples = (inks, inks[::2, ::2], inks[::2, ::2])
    gain, bias = (
        np.concatenate([table[plane][sample].ravel() for plane, sample in enumerate(samples)])
        for table in (gains, biases)
    )
    return gain, bias


def _planes(planes: Bytes, layout: Layout) -> tuple[Bytes, Bytes, Bytes]:
    """Return views of Y [H, W], U and V [H / 2, W / 2] in the flat `planes`."""
    half = layout.height // 2, layout.width // 2
    luma, quarter = layout.height * layout.width, half[0] * half[1]
    return (
        planes[:luma].reshape(layout.height, layout.width),
        planes[luma : luma + quarter].reshape(half),
        planes[luma + quarter :].reshape(half),
    )


def _cells_of(pixels: int, cells: int) -> NDArray[np.int64]:
    """Return each pixel's cell index, [pixels]; the pixels of a chroma sample share a cell."""
    return np.repeat((2 * np.arange(pixels // 2) + 1) * cells // pixels, 2)


def _edges(cell: NDArray[np.int64], wide: int) -> NDArray[np.bool_]:
    """Return a mask [pixels] of the pixels within `wide` pixels of an end of their cell."""
    ends = np.r_[True, cell[1:] != cell[:-1], True]
    near = np.zeros(len(cell), np.bool_)
    for step in range(wide):
        near[step:] |= ends[: len(cell) - step]
        near[: len(cell) - step] |= ends[1 + step :]
    return near


def _stripes(layout: Layout) -> NDArray[np.bool_]:
    """Return a mask [H, W] of every second diagonal stripe."""
    wide = 2 * layout.border
    down, across = np.ogrid[: layout.height, : layout.width]
    stripes: NDArray[np.bool_] = (down + across) // wide % 2 == 0
    return stripes


def _even(pixels: float) -> int:
    return 2 * max(1, round(pixels / 2))
