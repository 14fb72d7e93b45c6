"""Download a file from an http or https address; refuse web pages."""

from __future__ import annotations

import re
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from aot.errors import VideoError, first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from http.client import HTTPResponse

__all__ = ["is_address", "pieces_of_address"]

_TIMEOUT_S = 30  # without receiving a byte
_PIECE_BYTES = 2**18
_HEADERS = {"User-Agent": "aot", "Accept": "video/*, */*;q=0.5"}
# Characters of an address that stay as they are; others, such as spaces, are encoded.
_AS_THEY_ARE = "%/:=&?~#+!$,;'@()*[]"
# The first bytes of web pages and playlists; the declared content type may be wrong.
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head|<\?xml|#EXTM3U)", re.IGNORECASE)
_PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.apple.mpegurl", "application/x-mpegurl")


def is_address(source: object) -> bool:
    """Return whether `source` names a file on a web server."""
    return re.match("https?://", str(source), re.IGNORECASE) is not None


def pieces_of_address(address: str, opener: OpenerDirector | None = None) -> Generator[tuple[bytes, int], None, None]:
    """Yield pairs (data, total size in bytes or 0 if unknown) of the file at `address`.

    `opener` opens the address; by default one for http and https.

    Raises:
        VideoError: If the server cannot be reached, refuses, ends early, or sends a web page.
    """
    with _explained(address), (opener or _opener()).open(_request(address), timeout=_TIMEOUT_S) as response:
        whole, done = _announced_bytes(response), 0
        while piece := response.read(_PIECE_BYTES):
            if not done and _is_page(response, piece):
                raise VideoError(
                    f"{address} is a web page or a playlist, not a video file: "
                    "fetch the video with yt-dlp first, and name the file it writes"
                )
            done += len(piece)
            yield piece, whole
    if done < whole:
        raise VideoError(f"the download of {address} ended after {done:,} of {whole:,} bytes: try again")


def _request(address: str) -> Request:
    return Request(quote(address, safe=_AS_THEY_ARE), headers=_HEADERS)


def _opener() -> OpenerDirector:
    """Return an opener for http and https only; a redirect must not lead to a local file."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler,
        UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _announced_bytes(response: HTTPResponse) -> int:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0


def _is_page(response: HTTPResponse, beginning: bytes) -> bool:
    return response.headers.get_content_type().lower() in _PAGE_TYPES or _PAGE.match(beginning) is not None


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Convert network errors into a VideoError with a remedy."""
    try:
        yield
    except HTTPError as error:
        raise VideoError(
            f"{address} cannot be fetched ({error.code} {first_line(Exception(error.reason))}): "
            "check the address, or download the video and name the file"
        ) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise VideoError(
            f"{address} cannot be fetched ({first_line(Exception(reason)) or type(reason).__name__}): "
            "check the address and the connection, or download the video and name the file"
        ) from error
