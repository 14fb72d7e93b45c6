"""Turn errors into the objects and statuses of the OpenAI API."""

from __future__ import annotations

import logging
from typing import Any

from aot.errors import AOTError, ConfigError, MemoryLimitError, VideoError, first_line
from aot.runtime.memory import is_out_of_memory
from aot.text import visible

__all__ = ["ClientGoneError", "RequestError", "error_object", "refusal_of"]


class RequestError(AOTError):
    """Raised if a request is refused; `status` is that of HTTP, `code` a word for programs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ClientGoneError(Exception):
    """Raised in the work of a request whose client has left."""


def refusal_of(error: BaseException) -> RequestError:
    """Return `error` as a refusal; log it if it is a defect of the server."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ClientGoneError):
        return RequestError(499, "client_gone", "the client has left")
    if isinstance(error, VideoError):
        return RequestError(400, "video_unreadable", str(error))
    if isinstance(error, ConfigError):
        return RequestError(400, "invalid_value", str(error))
    if isinstance(error, MemoryLimitError) or is_out_of_memory(error):
        return RequestError(503, "out_of_memory", f"out of memory ({first_line(error)}); try again, or a shorter video")
    if isinstance(error, AOTError):
        return RequestError(500, "failed", str(error))
    logging.getLogger("aot").error("a request failed", exc_info=error)
    return RequestError(500, "internal_error", f"internal error ({type(error).__name__}); the server's log has more")


def error_object(refused: RequestError) -> dict[str, Any]:
    """Return the body of a reply with an error."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": visible(str(refused)), "type": kind, "param": None, "code": refused.code}}
