"""A video file and its index, built once and then passed on."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aot.config.schema import SamplingConfig
from aot.video.probe import index_file
from aot.video.source import open_source, source_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aot.video.probe import FrameIndex
    from aot.video.source import OnBytes

__all__ = ["VideoFile", "open_file", "probe"]


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video that can be read any number of times.

    Attributes:
        path: where its data are: a temporary copy if it came from an address or a pipe.
        index: its frames; `index.info.path` is the name that the user gave.
    """

    path: Path
    index: FrameIndex

    @property
    def name(self) -> str:
        """Return its short name, for messages."""
        return Path(self.index.info.path).name


@contextmanager
def open_file(
    source: str | Path | VideoFile, sampling: SamplingConfig | None = None, on_bytes: OnBytes | None = None
) -> Iterator[VideoFile]:
    """Yield a file with its index; a file that is open already is yielded as it is.

    `sampling` limits the size of a download or copy, which `on_bytes(done, total)` follows.

    Raises:
        VideoError: If there is nothing to read, or it is not a video, too large, cut off, or
            without a picture.
    """
    if isinstance(source, VideoFile):
        yield source
        return
    with open_source(source, (sampling or SamplingConfig()).max_input_mb, on_bytes) as path:
        yield VideoFile(path, index_file(path, source_name(source)))


def probe(path: str | Path) -> FrameIndex:
    """Read the frame times of a video; decode one picture only, for the orientation.

    The main stream is the largest, then the longest; cover art does not count. `info.width` and
    `info.height` are as displayed: after rotation, and with square pixels.

    Raises:
        VideoError: If there is nothing to read, or it is no video, cut off, or without a picture.
    """
    with open_file(path) as video:
        return video.index
