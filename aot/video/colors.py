"""Convert decoded frames to RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

__all__ = ["RgbConverter"]

# Matrix coefficients as numbered in ITU-T H.273, table 4.
_UNSPECIFIED, _BT2020, _BT2020_CONSTANT = 2, 9, 10
# The matrix coefficients that FFmpeg's scaler supports.
_CONVERTIBLE = frozenset((0, 1, _UNSPECIFIED, 4, 5, 6, 7, _BT2020))


class RgbConverter:
    """Convert frames to RGB.

    Use one converter for all frames, because it caches tables: a frame of 720p then takes 2 ms
    instead of 9 ms.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: VideoFrame) -> tuple[NDArray[np.uint8], bool]:
        """Return the picture in RGB [H, W, 3], and whether its colors are a guess.

        The colors are a guess if FFmpeg's scaler does not support the color matrix of `frame`
        (such as YCgCo or ICtCp). The nearest supported matrix or the default is used instead.
        """
        # FFmpeg 8 refuses other matrices; FFmpeg 7 guesses without a warning.
        guessed = frame.colorspace not in _CONVERTIBLE
        if guessed:
            frame.colorspace = _BT2020 if frame.colorspace == _BT2020_CONSTANT else _UNSPECIFIED
        return self._rgb(frame), guessed

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        # PyAV before 16 assumes limited-range BT.601 unless the last three arguments are given.
        converted = self._reformatter.reformat(
            frame,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,  # of chroma, as in the ffmpeg program
            src_colorspace=frame.colorspace,
            dst_colorspace=Colorspace.DEFAULT,
            src_color_range=frame.color_range or ColorRange.MPEG,
        )
        return _view(converted)


def _view(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] of an RGB frame without a copy and without row padding."""
    import numpy as np

    plane = frame.planes[0]
    samples: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8)
    rows = samples.reshape(-1, plane.line_size)[: frame.height, : frame.width * 3]
    return rows.reshape(frame.height, frame.width, 3)
