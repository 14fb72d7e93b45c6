"""Open the source that the user names as a file, and read packets from the file."""

from __future__ import annotations

import errno
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av.logging
from av.error import FFmpegError

from aot.config.schema import SamplingConfig
from aot.errors import VideoError
from aot.runtime.paths import path_kind
from aot.runtime.temporary_files import temporary_file
from aot.text import did_you_mean
from aot.video.download import is_address, pieces_of_address
from aot.video.pyav import open_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["OnBytes", "open_container", "open_source", "packets", "source_name"]

OnBytes = Callable[[int, int], None]  # (done, total)
Pieces = Generator[tuple[bytes, int], None, None]  # (data, total size or 0 if unknown)

_MEGABYTE = 10**6
_MOST_NAMES = 1000  # of a folder, compared to find a similar spelling
_PIECE_BYTES = 2**18

# A demuxer that fails this often in a row does not reach readable data again.
_MAX_READ_FAILURES = 50


def source_name(path: str | Path) -> str:
    """Return the name of a source in messages: `path`, or "standard input" if `path` is "-"."""
    return "standard input" if str(path) == "-" else str(path)


@contextmanager
def open_source(
    source: str | Path, limit_mb: int = SamplingConfig().max_input_mb, on_bytes: OnBytes | None = None
) -> Iterator[Path]:
    """Yield a readable, non-empty, seekable file for `source`.

    Addresses (http, https), "-" (standard input), devices and pipes such as <(command) are copied
    to a temporary file, which is always removed afterwards. `on_bytes(done, total)` is called
    during the copy.

    Raises:
        VideoError: If the file is missing, a directory or empty; if the address does not serve a
            file; or if the copy is larger than `limit_mb` or does not fit on the disk.
    """
    file, kind = Path(source), path_kind(source)
    if is_address(source):
        pieces = pieces_of_address(str(source))
    elif str(source) == "-":
        pieces = _pieces_of_standard_input()
    elif kind is None:
        raise VideoError(_missing(source))
    elif kind == "folder":
        raise VideoError(f"{source} is a directory: name one video file in it")
    elif kind == "file":
        if file.stat().st_size == 0:
            raise VideoError(f"{source} is empty (0 bytes): copy or download it again")
        yield file
        return
    else:
        pieces = _pieces_of_pipe(file)
    with temporary_file(_temporary_folder()) as copy:
        with closing(pieces):
            _write_pieces(pieces, copy, source_name(source), limit_mb * _MEGABYTE, on_bytes)
        yield copy


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise VideoError("no folder for temporary files is writable; set TMPDIR to one that is") from error


def _missing(path: str | Path) -> str:
    if not str(path):
        return "the name of the video is empty: name a video file"
    if "://" in str(path):
        return f"{path} is not an http or https address: download it first and name the file"
    suggestion = did_you_mean(Path(path).name, _names_in_folder_of(Path(path)))
    return f"{path} does not exist: {suggestion or 'check the spelling and the current directory'}"


def _names_in_folder_of(path: Path) -> list[str]:
    """Return up to 1000 file names in the folder of `path`."""
    try:
        return [entry.name for entry in islice(path.parent.iterdir(), _MOST_NAMES)]
    except (OSError, ValueError):
        return []


def _pieces_of_standard_input() -> Pieces:
    if sys.stdin.buffer.isatty():
        raise VideoError("nothing is piped into standard input: use `aot ... - < clip.mp4`, or name a file")
    yield from _pieces(sys.stdin.buffer)


def _pieces_of_pipe(path: Path) -> Pieces:
    with path.open("rb") as stream:
        yield from _pieces(stream)


def _pieces(stream: BinaryIO) -> Pieces:
    while piece := stream.read(_PIECE_BYTES):
        yield piece, 0


def _write_pieces(pieces: Pieces, copy: Path, name: str, limit_bytes: int, on_bytes: OnBytes | None) -> None:
    done = 0
    try:
        with copy.open("wb") as target:
            for piece, whole in pieces:
                done += len(piece)
                if max(done, whole) > limit_bytes:
                    raise VideoError(
                        f"{name} is larger than {limit_bytes // _MEGABYTE} MB, the limit for copies: "
                        "raise --max-input-mb, or save it to a file and name that"
                    )
                target.write(piece)
                if on_bytes is not None:
                    on_bytes(done, max(done, whole))
    except OSError as error:
        raise VideoError(f"{name} cannot be copied to {copy.parent} ({error.strerror}): name a file instead") from error
    if not done:
        raise VideoError(f"{name} is empty: it holds no data")


@contextmanager
def open_container(file: Path, name: str, *, options: dict[str, str] | None = None) -> Iterator[InputContainer]:
    """Open `file` with FFmpeg; the log of FFmpeg is silent until the container is closed.

    Raises:
        VideoError: If FFmpeg cannot open the file; the message has `name` instead of its path.
    """
    with _SILENCE:
        try:
            container = open_input(file, options or {})
        except (FFmpegError, OSError) as error:
            raise VideoError(_unreadable(name, error)) from error
        with container:
            try:
                yield container
            finally:
                _settle(container)


def _unreadable(name: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{name} cannot be read (permission denied): change its permissions or copy it"
    if isinstance(error, FFmpegError) and error.errno == errno.EINVAL:
        return f"{name} is not a video but a playlist, a text or another kind of file: name the video file itself"
    return f"{name} is not a video, or was cut off before its index: copy or download it again"


def _settle(container: InputContainer) -> None:
    """Wait for the threads of all decoders while the log of FFmpeg is silent.

    Otherwise PyAV would wait for the threads later, while it holds the GIL. If a thread then
    writes to the log, it needs the GIL, too: a deadlock.
    """
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.flush_buffers()


class _Silence:
    """Silence FFmpeg's log while at least one file is open.

    The log level is global and other libraries change it, so the previous level is restored.
    """

    def __init__(self) -> None:
        self._lock, self._wanted_by = threading.Lock(), 0
        self._before: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._wanted_by:
                self._before = av.logging.get_level()
                av.logging.set_level(None)
            self._wanted_by += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._wanted_by -= 1
            if not self._wanted_by:
                av.logging.set_level(self._before)


_SILENCE = _Silence()


def packets(container: InputContainer, *streams: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the non-empty packets of `streams` in file order; skip unreadable parts."""
    failures = 0
    while failures < _MAX_READ_FAILURES:
        try:
            for packet in container.demux(streams):
                failures = 0
                if packet.size:
                    yield packet
            return
        # PyAV up to 18 raises an IndexError if a stream appears that the header did not list.
        except (FFmpegError, IndexError):
            failures += 1
