"""Get the video that a request names as a file, with the hash of its content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aot.errors import VideoError
from aot.runtime.paths import path_kind
from aot.runtime.temporary_files import temporary_file
from aot.serving.http.public_web import public_opener
from aot.serving.http.refusals import RequestError
from aot.video.download import is_address, pieces_of_address

__all__ = ["FetchedVideo", "VideoFiles"]

_MEGABYTE = 10**6
_PIECE_BYTES = 2**20
_LONGEST_FETCH_S = 300.0
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FetchedVideo:
    """A video of a request.

    Attributes:
        path: the file.
        digest: the SHA-256 of its content.
    """

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class VideoFiles:
    """Which videos a request may name.

    Attributes:
        folders: `file:` addresses must lead into one of these folders.
        limit_mb: the largest download.
        allows_private: whether addresses may lead to the private network, and may be http.
    """

    folders: tuple[Path, ...] = ()
    limit_mb: int = 512
    allows_private: bool = False

    @contextmanager
    def fetched(self, url: str, check: Callable[[], None]) -> Iterator[FetchedVideo]:
        """Yield the video at `url`; `check` is called often and may raise to stop.

        Raises:
            RequestError: If `url` is not allowed.
            VideoError: If the video cannot be fetched or is too large.
        """
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "file":
            path = self._allowed(url)
            with path.open("rb") as file:
                yield FetchedVideo(path, _hashed(iter(lambda: file.read(_PIECE_BYTES), b""), check))
        elif scheme == "data":
            with _temporary() as copy:
                yield FetchedVideo(copy, self._copied([(_decoded(url), 0)], copy, check))
        elif is_address(url) and (scheme == "https" or self.allows_private):
            with _temporary() as copy, self._pieces(url) as pieces:
                digest = self._copied(pieces, copy, check)
                yield FetchedVideo(copy, digest)
        else:
            allowed = "https:, data: or file:" if self.folders else "https: or data:"
            raise RequestError(400, "address_not_allowed", f"the address of the video must begin with {allowed}")

    def _allowed(self, url: str) -> Path:
        """Return the file of a `file:` address, with all links followed.

        Raises:
            RequestError: If it is not a file in the folders; files elsewhere are not opened.
        """
        parts = urlsplit(url)
        try:
            path = Path(os.path.realpath(unquote(parts.path, errors="strict")))
        except (ValueError, OSError):
            path = Path()
        inside = any(path.is_relative_to(os.path.realpath(folder)) for folder in self.folders)
        if parts.netloc not in ("", "localhost") or not inside or path_kind(path) != "file":
            raise RequestError(
                400, "file_not_allowed", "this is not a file in a folder that the server was given with --allow"
            )
        return path

    @contextmanager
    def _pieces(self, url: str) -> Iterator[Iterable[tuple[bytes, int]]]:
        if self.allows_private:
            with closing(pieces_of_address(url)) as pieces:
                yield pieces
            return
        with public_opener(_LONGEST_FETCH_S) as opener, closing(pieces_of_address(url, opener)) as pieces:
            yield pieces

    def _copied(self, pieces: Iterable[tuple[bytes, int]], copy: Path, check: Callable[[], None]) -> str:
        """Write the pieces to `copy` and return their hash."""
        done = 0
        with copy.open("wb") as target:

            def written() -> Iterator[bytes]:
                nonlocal done
                for piece, whole in pieces:
                    done += len(piece)
                    if max(done, whole) > self.limit_mb * _MEGABYTE:
                        raise VideoError(f"the video is larger than {self.limit_mb} MB; cut or encode it to be smaller")
                    target.write(piece)
                    yield piece

            digest = _hashed(written(), check)
        if not done:
            raise VideoError("the video is empty: it holds no data")
        return digest


def _hashed(pieces: Iterable[bytes], check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        check()
        digest.update(piece)
    return digest.hexdigest()


def _decoded(url: str) -> bytes:
    head = _DATA.match(url[:200])
    try:
        if head is None:
            raise ValueError
        return base64.b64decode(url[head.end() :], validate=True)
    except (ValueError, binascii.Error):
        raise RequestError(400, "invalid_data", "data: must be data:video/mp4;base64, and base64 after it") from None


def _temporary() -> AbstractContextManager[Path]:
    return temporary_file(Path(tempfile.gettempdir()))
