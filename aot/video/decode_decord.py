"""Decoding chosen frames with decord, which is refused wherever it would return other frames than asked."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aot.errors import ConfigError, VideoError
from aot.video.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from aot.video.probe import FrameIndex

__all__ = ["read_pictures"]

_REMEDY = "use --decoder pyav"


def read_pictures(file: Path, index: FrameIndex, positions: Sequence[int]) -> Generator[Picture, None, None]:
    """Decode the frames at `positions` (ascending, in `index.pts`), in order. decord itself turns them upright.

    Raises:
        ConfigError: decord is not installed.
        VideoError: decord cannot read the file, or counts other frames than its packets show.
    """
    decord = _import_decord()
    name = index.info.path
    if index.info.discarded_frames:
        raise VideoError(f"decord shows the wrong frames of a trimmed file such as {name}: {_REMEDY}")
    if index.restarts:
        raise VideoError(f"decord mixes the parts of {name}, whose times start again: {_REMEDY}")
    if index.info.mirrored:
        raise VideoError(f"decord does not mirror {name}, which is stored mirrored: {_REMEDY}")
    with _quiet(decord), _explained(decord, name):
        # Tolerating no fault: decord otherwise hands out a neighbour of a damaged frame without a word.
        reader = decord.VideoReader(str(file), num_threads=1, fault_tol=0)
        if len(reader) != index.info.frames:
            raise VideoError(f"decord sees {len(reader)} frames in {name}, not {index.info.frames}: {_REMEDY}")
        for position in positions:
            rgb = reader[position].asnumpy()
            if rgb.shape[:2] != (index.info.height, index.info.width):
                raise VideoError(f"decord reads another stream or size of {name} than its largest: {_REMEDY}")
            yield Picture(position, rgb)


def _import_decord() -> Any:
    try:
        import decord
    except (ImportError, OSError) as error:
        raise ConfigError(f"decord is not installed or does not load here: install it, or {_REMEDY}") from error
    return decord


@contextmanager
def _quiet(decord: Any) -> Iterator[None]:
    """Silence decord's FFmpeg; ERROR is the level decord sets itself on import."""
    decord.logging.set_level(decord.logging.QUIET)
    try:
        yield
    finally:
        decord.logging.set_level(decord.logging.ERROR)


@contextmanager
def _explained(decord: Any, name: str) -> Iterator[None]:
    try:
        yield
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError) as error:
        raise VideoError(f"decord cannot read {name}: {_REMEDY}") from error
