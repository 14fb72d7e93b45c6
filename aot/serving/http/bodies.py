"""Read the JSON body of a request within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aot.runtime.json_files import parse_json
from aot.runtime.plain_values import check_plain
from aot.serving.http.refusals import ClientGoneError, RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["read_json_body"]

_WHOLE_BODY_S = 120.0
_MEGABYTE = 10**6


async def read_json_body(request: Request, limit_mb: int) -> Any:
    """Return the parsed body.

    Only application/json is read: a web page that a user visits cannot send it to another origin.

    Raises:
        RequestError: If the body is too long, comes too slowly, or is no JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "wrong_content_type", "the body must have the header Content-Type: application/json")
    _check_size(int(length) if (length := request.headers.get("content-length", "")).isdecimal() else 0, limit_mb)
    try:
        body = await asyncio.wait_for(_read(request, limit_mb), _WHOLE_BODY_S)
    except (asyncio.TimeoutError, TimeoutError):
        raise RequestError(408, "body_too_slow", f"the body took more than {_WHOLE_BODY_S:.0f} s; try again") from None
    return await asyncio.to_thread(_parse, body)


async def _read(request: Request, limit_mb: int) -> bytes:
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            _check_size(len(body), limit_mb)
    except ClientDisconnect:
        raise ClientGoneError from None
    return bytes(body)


def _check_size(size: int, limit_mb: int) -> None:
    if size > limit_mb * _MEGABYTE:
        raise RequestError(
            413, "body_too_large", f"the body is larger than {limit_mb} MB; give the video by an https address"
        )


def _parse(body: bytes) -> Any:
    try:
        value = parse_json(body)
        check_plain(value)
    except ValueError as error:
        raise RequestError(400, "invalid_json", f"the body cannot be read: {error}") from None
    return value
