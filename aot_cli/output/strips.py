"""Make strips of small pictures, from the pictures of a run or from the video file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from aot.errors import AOTError
from aot.reports.frame_pictures import shrunk, shrunk_jpeg
from aot_cli.output.console import StageBars
from aot_cli.output.describe import Grouping, VideoDescription, groupings
from aot_cli.output.terminal_pictures import Clips, ClipStrips, picture_size, shown_clips

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aot.config.schema import SamplingConfig
    from aot.reports.retention import Compression
    from aot.types import VideoInfo
    from aot.video import VideoFile

__all__ = ["strips_of_file", "strips_of_pictures"]

_DIM = 4  # discarded patches have a quarter of their brightness


def strips_of_pictures(found: Compression, files: Sequence[bytes]) -> ClipStrips:
    """Return the strips of the traced run `found`, in which the discarded patches are dimmed.

    Args:
        found: The run.
        files: One JPEG picture per frame of the run.
    """
    from aot.reports.fates import Fate, fates

    size, clips = _size(found.report.video), groupings(found.tokens.clips, found.tokens.timestamps_s)
    discarded = (fates(found.tokens) == int(Fate.DISCARDED)).view(-1, *found.tokens.grid).numpy()
    pictures = {frame: _dimmed(shrunk_jpeg(files[frame], size), discarded[frame]) for frame in _shown_times(clips)}
    return ClipStrips(clips, pictures, size)


def _dimmed(picture: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `picture` [H, W, 3] with those patches darker whose `cells` [rows, cols] are true."""
    (height, width), (rows, cols) = picture.shape[:2], cells.shape
    # The cell under the middle of each pixel.
    row = [(2 * y + 1) * rows // (2 * height) for y in range(height)]
    col = [(2 * x + 1) * cols // (2 * width) for x in range(width)]
    shown = picture.copy()
    shown[cells[row][:, col]] //= _DIM
    return cast("NDArray[np.uint8]", shown)


def strips_of_file(video: VideoFile, found: VideoDescription, sampling: SamplingConfig) -> ClipStrips | None:
    """Decode `video`, described by `found`; return strips of its pictures, None on failure."""
    size, clips = _size(found.video), _clips(found)
    try:
        return ClipStrips(clips, _decoded(video, sampling, _shown_times(clips), size), size)
    except AOTError:  # the description is valid without decoded pictures
        return None


def _decoded(
    file: VideoFile, sampling: SamplingConfig, times_s: Mapping[int, float], size: tuple[int, int]
) -> dict[int, NDArray[np.uint8]]:
    """Decode the frames of `times_s`, a map from frame number to time; return small pictures."""
    from aot.video import open_video

    frame_at = {time: frame for frame, time in times_s.items()}
    small = {}
    with StageBars() as bars, open_video(file, sampling) as video, video.pictures(frame_at) as pictures:
        for done, (time, picture) in enumerate(pictures, 1):
            small[frame_at[time]] = shrunk(picture, size)
            bars("decode", done, len(frame_at))
    return small


def _size(video: VideoInfo) -> tuple[int, int]:
    return picture_size(video.width, video.height)


def _clips(found: VideoDescription) -> Clips:
    """Return the clips of a video, or one clip per frame if the clips depend on a model."""
    return found.clips or [Grouping(frame, frame, [frame], [time]) for frame, time in enumerate(found.timestamps_s)]


def _shown_times(clips: Clips) -> dict[int, float]:
    """Return the time in seconds of each frame to show, by frame number."""
    head, tail = shown_clips(clips)
    return {frame: time for clip in (*head, *tail) for frame, time in zip(clip.members, clip.timestamps_s, strict=True)}
