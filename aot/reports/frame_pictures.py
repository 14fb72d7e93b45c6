"""Make small pictures of the frames that a model read, as JPEG files in memory."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from aot.types import VideoFrames

__all__ = ["FramePictures", "jpeg", "shrunk", "shrunk_jpeg"]

_LONGEST_SIDE = 384
_QUALITY = 5  # on the MPEG scale from 2 (best) to 31


class FramePictures:
    """Collect JPEG files of frames that arrive in chunks.

    Args:
        together: number of frames that the model reads together; the first one is collected.
    """

    def __init__(self, together: int = 1) -> None:
        self.files: list[bytes] = []
        self._together = together

    def add(self, frames: VideoFrames) -> None:
        """Encode the next chunk of frames and append the pictures to `files`."""
        self.files += map(jpeg, frames.pixels[:: self._together])


def jpeg(image: Tensor) -> bytes:
    """Return an image, uint8 [3, H, W], as a JPEG file of at most 384 pixels per side."""
    import av
    from av.video.frame import VideoFrame

    frame = VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().cpu().numpy(), format="rgb24")
    scale = min(1.0, _LONGEST_SIDE / max(frame.width, frame.height))
    width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuvj420p"
    codec.time_base = Fraction(1)
    codec.options = {"qmin": str(_QUALITY), "qmax": str(_QUALITY)}
    shrunk = frame.reformat(width, height, "yuvj420p", dst_color_range=av.video.reformatter.ColorRange.JPEG)
    return b"".join(bytes(packet) for packet in (*codec.encode(shrunk), *codec.encode(None)))


def shrunk(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `rgb` [H, W, 3] resized to `size` (rows, cols) by averaging, without torch."""
    from av.video.frame import VideoFrame
    from av.video.reformatter import Interpolation

    rows, cols = size
    small = VideoFrame.from_ndarray(rgb, format="rgb24").reformat(cols, rows, interpolation=Interpolation.AREA)
    return cast("NDArray[np.uint8]", small.to_ndarray())


def shrunk_jpeg(file: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode the JPEG `file` and return the picture [rows, cols, 3], resized to `size`."""
    import av

    (frame,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(file))
    # Convert to RGB before resizing; in one step, colors would have half the resolution.
    return shrunk(cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24")), size)
