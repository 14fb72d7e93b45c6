"""Turning what the user named into a file, and a file into packets, with errors that say what to do."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.logging
from av.error import FFmpegError

from aot.errors import VideoError
from aot.paths import path_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["open_container", "open_source", "packets", "source_name"]

# A demuxer that fails this often in a row is not going to reach readable data again.
_MAX_READ_FAILURES = 50


def source_name(path: str | Path) -> str:
    """What messages call the source: its path as given, or "standard input"."""
    return "standard input" if str(path) == "-" else str(path)


@contextmanager
def open_source(path: str | Path) -> Iterator[Path]:
    """Yield a readable, non-empty, seekable file for `path`.

    "-" (standard input) and pipes such as <(command) are copied to a temporary file, which is gone
    afterwards, also after an exception.

    Raises:
        VideoError: the path is missing, a directory or empty, or the copy does not fit on the disk.
    """
    file, kind = Path(path), "stream" if str(path) == "-" else path_kind(path)
    if kind is None:
        raise VideoError(_missing(path))
    if kind == "folder":
        raise VideoError(f"{path} is a directory: name one video file in it")
    if kind == "file":
        if file.stat().st_size == 0:
            raise VideoError(f"{path} is empty (0 bytes): copy or download it again")
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="aot-") as folder:
        copy = Path(folder, "stdin")
        _copy_stream(path, copy)
        yield copy


def _missing(path: str | Path) -> str:
    if not str(path):
        return "the name of the video is empty: name a video file"
    if "://" in str(path):
        return f"{path} is an address, not a file: download it first and name the file"
    return f"{path} does not exist: check the spelling and the current directory"


def _copy_stream(path: str | Path, copy: Path) -> None:
    name = source_name(path)
    if str(path) == "-" and sys.stdin.buffer.isatty():
        raise VideoError("nothing is piped into standard input: use `aot ... - < clip.mp4`, or name a file")
    try:
        with copy.open("wb") as target:
            if str(path) == "-":
                shutil.copyfileobj(sys.stdin.buffer, target)
            else:
                with Path(path).open("rb") as stream:
                    shutil.copyfileobj(stream, target)
    except OSError as error:
        raise VideoError(f"{name} cannot be copied to {copy.parent} ({error.strerror}): name a file instead") from error
    if copy.stat().st_size == 0:
        raise VideoError(f"{name} is empty: nothing was written to it")


@contextmanager
def open_container(file: Path, name: str, *, options: dict[str, str] | None = None) -> Iterator[InputContainer]:
    """Open `file` with FFmpeg, keeping its log lines off stderr until the container is closed.

    Raises:
        VideoError: FFmpeg does not recognise the file; the message calls it `name`.
    """
    with _quiet():
        try:
            # An absolute path cannot be mistaken for a protocol such as "concat:".
            container = av.open(str(file.absolute()), metadata_errors="ignore", options=options or {})
        except (FFmpegError, OSError) as error:
            raise VideoError(_unreadable(name, error)) from error
        with container:
            yield container


def _unreadable(name: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{name} may not be read: change its permissions or copy it"
    return f"{name} is not a video, or was cut off before its index: copy or download it again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence FFmpeg. The level is global and other libraries raise it, so it is put back."""
    level = av.logging.get_level()
    av.logging.set_level(None)
    try:
        yield
    finally:
        av.logging.set_level(level)


def packets(container: InputContainer, *streams: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The streams' packets that hold data, in file order; unreadable stretches are passed over."""
    failures = 0
    while failures < _MAX_READ_FAILURES:
        try:
            for packet in container.demux(streams):
                failures = 0
                if packet.size:
                    yield packet
            return
        except FFmpegError:
            failures += 1
