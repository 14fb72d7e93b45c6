"""Open a video file and build its frame index once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.video.probe import index_file
from aot.video.source import open_source, source_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aot.video.probe import FrameIndex
    from aot.video.source import OnBytes

__all__ = ["VideoFile", "open_file", "open_videos", "probe"]

_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video that can be read several times.

    Attributes:
        path: the file with the data, a temporary copy if the source is an address or a pipe.
        index: the frame index; `index.info.path` is the name that the user gave.
    """

    path: Path
    index: FrameIndex

    @property
    def name(self) -> str:
        """Return the file name without the folder, for messages."""
        return Path(self.index.info.path).name


@contextmanager
def open_file(
    source: str | Path | VideoFile, sampling: SamplingConfig | None = None, on_bytes: OnBytes | None = None
) -> Iterator[VideoFile]:
    """Yield `source` with its frame index; a `VideoFile` is yielded unchanged.

    `sampling` limits the size of a download or copy; `on_bytes(done, total)` reports its progress.

    Raises:
        VideoError: If `source` is missing, empty, not a video, too large or cut off, or has no
            picture.
    """
    if isinstance(source, VideoFile):
        yield source
        return
    with open_source(source, (sampling or SamplingConfig()).max_input_mb, on_bytes) as path:
        yield VideoFile(path, index_file(path, source_name(source)))


def probe(path: str | Path) -> FrameIndex:
    """Return the frame index of a video; only one picture is decoded, for the orientation.

    Of several video streams, the one with the largest pictures is indexed; if these are equal, the
    one with the most frames. Cover art is ignored.
    `info.width` and `info.height` are the displayed size: after rotation, with square pixels.

    Raises:
        VideoError: If `path` is missing, empty, not a video or cut off, or has no picture.
    """
    with open_file(path) as video:
        return video.index


def open_videos(videos: Iterable[Path]) -> dict[Path, VideoFile]:
    """Index the frames of `videos`.

    Raises:
        VideoError: If videos cannot be opened; the message lists the first ten of them.
    """
    opened, problems = dict[Path, VideoFile](), list[str]()
    for video in videos:
        try:
            with open_file(video) as opened[video]:
                pass
        except VideoError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise VideoError("; ".join(problems[:_MOST_PROBLEMS]) + more)
    return opened
