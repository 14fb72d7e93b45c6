"""Answer HTTP requests: keys, places, streams and errors around the work of a `Service`."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aot.serving.http.bodies import read_json_body
from aot.serving.http.chat_request import read_chat, read_video
from aot.serving.http.metrics import Metrics
from aot.serving.http.places import Places
from aot.serving.http.refusals import RequestError, error_object, refusal_of
from aot.serving.http.replies import completion, events
from aot.serving.http.service import Answered, Service
from aot.serving.http.work import Work

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Door", "make_app"]

Handler = Callable[["Request"], Awaitable["Response"]]


class Door:
    """The handlers of the server's paths.

    Args:
        service: does the work.
        metrics: counts replies.
        places: limits the requests that work and wait.
        model: the name of the model in requests.
        keys: the API keys; without any, everybody may ask.
        hosts: the names by which clients may reach the server; without any, all.
        body_mb: the largest body.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        places: Places,
        model: str,
        keys: Sequence[str],
        hosts: Sequence[str],
        body_mb: int,
    ) -> None:
        self._service, self._metrics, self._places = service, metrics, places
        self._model, self._hosts, self._body_mb, self._began = model, hosts, body_mb, int(time.time())
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check_client(self, request: Request) -> None:
        """Check the API key of a request, and the name of the server in it.

        Raises:
            RequestError: If there are keys or names, and the request has none of them.
        """
        if self._hosts and request.url.hostname not in self._hosts:
            raise RequestError(403, "unknown_host", f"name this server {' or '.join(self._hosts)}, or give it API keys")
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        # All keys are compared, so that the time does not depend on which one it is.
        known = [hmac.compare_digest(digest, each) for each in self._keys]
        if self._keys and (scheme.lower() != "bearer" or not any(known)):
            raise RequestError(
                401, "invalid_api_key", "the header Authorization: Bearer KEY must have a key of this server"
            )

    async def chat(self, request: Request) -> Response:
        """Answer a question about a video, whole or as a stream of events."""
        from starlette.responses import JSONResponse, StreamingResponse

        async with self._begun(request) as begin:
            asked = read_chat(await read_json_body(request, self._body_mb), self._service.generation)
            self._check_model(asked.model)
            work = begin(partial(self._service.answer, asked))
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self._model}
        results = work.results()
        try:
            if asked.streams:
                first = await results.__anext__()  # an error until here has a status of its own
                stream = _stopping(events(head, asked, _chained(first, results)), work)
                no_cache = {"Cache-Control": "no-cache"}
                return StreamingResponse(stream, media_type="text/event-stream", headers=no_cache)
            last = [result async for result in results][-1]
        except BaseException:
            work.stop()
            raise
        assert isinstance(last, Answered)
        return JSONResponse(completion(head, last))

    async def compress(self, request: Request) -> Response:
        """Return the tokens file of a video."""
        from starlette.responses import Response

        async with self._begun(request) as begin:
            model, video = read_video(await read_json_body(request, self._body_mb))
            self._check_model(model or self._model)
            work = begin(partial(self._service.compress, video))
        (content,) = [result async for result in work.results()]
        name = 'attachment; filename="tokens.safetensors"'
        return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": name})

    async def models(self, request: Request) -> Response:
        """List the one model."""
        from starlette.responses import JSONResponse

        card = {"id": self._model, "object": "model", "created": self._began, "owned_by": "aot"}
        return JSONResponse({"object": "list", "data": [card]})

    async def health(self, request: Request) -> Response:
        """Say that the server answers; no key is needed."""
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Return the metrics."""
        from starlette.responses import Response

        text, kind = self._metrics.text()
        return Response(text, headers={"Content-Type": kind})

    def _check_model(self, name: str) -> None:
        if name != self._model:
            raise RequestError(404, "model_not_found", f"this server has no model {name[:100]!r}; it has {self._model}")

    @asynccontextmanager
    async def _begun(self, request: Request) -> AsyncIterator[Callable[[Callable[[Work], None]], Work]]:
        """Take a ticket before the body is read; yield a function that starts the work with it."""
        ticket, started = self._places.take(), list[Work]()

        def begin(do: Callable[[Work], None]) -> Work:
            started.append(Work(do))
            self._places.start(started[0], ticket, partial(_left, request))
            return started[0]

        try:
            yield begin
        finally:
            if not started:
                ticket.close()


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chained(first: object, rest: AsyncIterator[object]) -> AsyncIterator[object]:
    yield first
    async for result in rest:
        yield result


async def _stopping(stream: AsyncIterator[str], work: Work) -> AsyncIterator[str]:
    try:
        async for event in stream:
            yield event
    finally:
        work.stop()


def make_app(door: Door, metrics: Metrics) -> FastAPI:
    """Return the application for an ASGI server."""
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    paths: dict[str, tuple[str, Handler]] = {
        "/v1/chat/completions": ("POST", door.chat),
        "/v1/compress": ("POST", door.compress),
        "/v1/models": ("GET", door.models),
        "/metrics": ("GET", door.metrics),
        "/health": ("GET", door.health),
    }

    def handler(path: str, handle: Handler) -> Handler:
        async def counted(request: Request) -> Response:
            try:
                if path != "/health":
                    door.check_client(request)
                response = await handle(request)
            except Exception as error:
                refused = refusal_of(error)
                # The rest of a body that was not read must not be taken for another request.
                closing = {"Connection": "close"} if refused.status in (401, 408, 413, 415, 429) else {}
                more = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
                wait = {"Retry-After": "1"} if refused.status == 429 else {}
                response = JSONResponse(error_object(refused), refused.status, {**closing, **more, **wait})
            metrics.reply(path, response.status_code)
            return response

        return counted

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        refused = RequestError(status, "unknown_path", f"this server has {', '.join(paths)}")
        return JSONResponse(error_object(refused), status)

    # The pages of FastAPI load scripts from elsewhere, and the requests are read by hand.
    return FastAPI(
        routes=[Route(path, handler(path, handle), methods=[method]) for path, (method, handle) in paths.items()],
        exception_handlers={HTTPException: unknown},
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
