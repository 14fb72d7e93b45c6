"""Decode chosen frames with torchcodec, on the GPU where it can; refuse what it shows otherwise."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aot.errors import ConfigError, VideoError
from aot.video.decode_pyav import PyavReader
from aot.video.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from aot.video.probe import FrameIndex

__all__ = ["TorchcodecReader"]

_REMEDY = "use --decoder pyav"
_MOST_LATE_S = 1e-3
# Mean difference of a picture, of 255. Other rounding causes less than 1, another color matrix 3.
_MOST_DIFFERENCE = 2.0
# What torchcodec and its libraries raise; they have no exceptions of their own.
_ERRORS = (RuntimeError, ValueError, IndexError)


class TorchcodecReader:
    """Read the frames at `positions` (ascending indices into `index.pts`), in order.

    Reading `pictures` raises a ConfigError if torchcodec cannot be loaded. It raises a VideoError
    if torchcodec fails, or if its frames have other times than in `index`, or if a keyframe is not
    the picture that PyAV and our own rules for colors and orientation give.
    """

    def __init__(self, file: Path, index: FrameIndex, positions: Sequence[int]) -> None:
        self._file, self._index, self._name = file, index, index.info.path
        self.pictures = self._pictures(positions)

    def give_up(self) -> None:
        """Do nothing: the next picture never takes long."""

    def _pictures(self, positions: Sequence[int]) -> Generator[Picture, None, None]:
        self._refuse_what_torchcodec_mistakes()
        decoder = self._decoder()
        if positions:
            self._compare(decoder, self._index.keyframe_up_to(positions[0]))
        for position in positions:
            yield Picture(position, self._rgb(decoder, position))

    def _refuse_what_torchcodec_mistakes(self) -> None:
        info = self._index.info
        if self._index.counted or self._index.restarts:
            raise VideoError(f"torchcodec needs times that ascend, unlike those of {self._name}: {_REMEDY}")
        if info.discarded_frames:
            raise VideoError(f"torchcodec counts the hidden frames of trimmed files such as {self._name}: {_REMEDY}")
        if info.mirrored:
            raise VideoError(f"torchcodec does not mirror {self._name}, which is stored mirrored: {_REMEDY}")

    def _decoder(self) -> Any:
        """Open the file on the GPU if torch has one and torchcodec's build can, else on the CPU."""
        import torch

        decoder_class, info = _load(), self._index.info
        for device in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
            try:
                decoder = decoder_class(
                    str(self._file.absolute()),
                    stream_index=info.stream_index,
                    dimension_order="NHWC",
                    num_ffmpeg_threads=0,
                    device=device,
                    seek_mode="exact",
                )
                if decoder.metadata.num_frames != info.frames:
                    count = decoder.metadata.num_frames
                    raise VideoError(f"torchcodec sees {count} frames in {self._name}, not {info.frames}: {_REMEDY}")
                return decoder
            except _ERRORS as error:
                failed = error
        raise self._failure() from failed

    def _compare(self, decoder: Any, keyframe: int) -> None:
        """Raise a VideoError if torchcodec shows another picture at `keyframe` than PyAV."""
        with closing(PyavReader(self._file, self._index, (keyframe,)).pictures) as pictures:
            expected = next(pictures, None)
        if expected is None or expected.damaged:
            raise VideoError(f"{self._name} is damaged at a keyframe, where decoders differ: {_REMEDY}")
        found = self._rgb(decoder, keyframe)
        if found.shape != expected.rgb.shape or abs(found - expected.rgb.astype("f4")).mean() > _MOST_DIFFERENCE:
            raise VideoError(f"torchcodec shows {self._name} in other colors or another orientation: {_REMEDY}")

    def _rgb(self, decoder: Any, position: int) -> NDArray[np.uint8]:
        try:
            frame = decoder.get_frame_at(position)
        except _ERRORS as error:
            raise self._failure() from error
        if abs(frame.pts_seconds - float(self._index.pts[position] * self._index.time_base)) > _MOST_LATE_S:
            raise VideoError(f"torchcodec returns frames of other times of {self._name}: {_REMEDY}")
        rgb: NDArray[np.uint8] = frame.data.cpu().contiguous().numpy()
        return rgb

    def _failure(self) -> VideoError:
        return VideoError(f"torchcodec cannot read {self._name}: {_REMEDY}")


def _load() -> Any:
    """Return torchcodec's class for decoding videos.

    Raises:
        ConfigError: If torchcodec is not installed or its libraries cannot be loaded.
    """
    if find_spec("torchcodec") is None:
        raise ConfigError(f"torchcodec is not installed: install the version for your torch, or {_REMEDY}")
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            "torchcodec cannot be loaded; it needs the version for your torch (the build without CUDA if torch has "
            f"none) and the shared libraries of FFmpeg: install these, or {_REMEDY}"
        ) from error
    return VideoDecoder
