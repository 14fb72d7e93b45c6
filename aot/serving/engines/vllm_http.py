"""Send prompts to a running `vllm serve --enable-prompt-embeds`."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aot.errors import AOTError, ConfigError, ModelError, UnsupportedError, first_line
from aot.serving.engines.base import EngineRequest, Sampling, begun

if TYPE_CHECKING:
    from torch import Tensor

    from aot.config.schema import GenerationConfig
    from aot.models.base import VideoModel
    from aot.types import CompressedTokens

__all__ = ["VllmServer", "completion_body", "prompt_body"]

_CONNECT_S, _READ_S = 10.0, 600.0
_MOST_SHOWN = 300  # characters of a server's message


def _text_of(embeddings: Tensor) -> str:
    """Return embeddings [P, D] as the text that vLLM's HTTP door reads."""
    import torch

    file = io.BytesIO()
    torch.save(embeddings.cpu().contiguous().clone(), file)
    return base64.b64encode(file.getvalue()).decode()


def completion_body(request: EngineRequest) -> dict[str, Any]:
    """Return the body of a request to /v1/completions, for the one model of a server.

    Raises:
        UnsupportedError: If the answer depends on what the HTTP door does not take.
    """
    if request.sampling.repetition_penalty != 1:
        raise UnsupportedError(
            "the model's generation_config.json sets repetition_penalty, which reads the ids of the prompt, and "
            "vLLM's HTTP door takes none with embeddings; use --engine vllm without --engine-url"
        )
    return {"prompt_embeds": _text_of(request.embeddings), **asdict(request.sampling)}


def prompt_body(
    model: VideoModel, tokens: CompressedTokens, question: str, options: GenerationConfig
) -> dict[str, Any]:
    """Return the body of a request with a question about kept tokens; see `completion_body`."""
    from aot.models.composed import ComposedModel

    assert isinstance(model, ComposedModel)
    sampling = Sampling.of(model.network.generation_config, options)
    return completion_body(EngineRequest.of(model.prompt(tokens, question), sampling))


class VllmServer:
    """A vLLM server with an exported language model.

    Args:
        url: its address, with or without /v1.
        key: its API key, if it asks for one.

    Raises:
        ConfigError: If the address is wrong.
        ModelError: If it cannot be reached, or is no such server.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--engine-url {url} is no address; give one such as http://127.0.0.1:8000")
        self._parts = parts
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.model = self._served_model()

    def check(self, width: int) -> None:
        """Check that the server takes embeddings of `width` values.

        Raises:
            ConfigError: If it does not.
        """
        import torch

        sampling = Sampling(1, 0, 0.0, 0, [], 1.0, 0, 1.0, 0.0)
        for _ in self.begin(EngineRequest(torch.zeros(1, width), [0], sampling)):
            pass

    def begin(self, request: EngineRequest) -> Generator[list[int], None, None]:
        """Send a prompt; see `Engine.begin`."""
        more = {"model": self.model, "return_token_ids": True, "stream": True}
        body = json.dumps({**completion_body(request), **more}).encode()
        connection = self._connection()
        try:
            response = self._response(connection, "POST", "/v1/completions", body)
        except BaseException:
            connection.close()
            raise
        return begun(self._ids(connection, response))

    def close(self) -> None:
        """Do nothing: the server goes on."""

    def _ids(self, connection: Any, response: Any) -> Generator[list[int], None, None]:
        """Yield the ids in server-sent events; a closed connection ends the answer there too."""
        with closing(connection):
            yield []
            try:
                for line in response:
                    name, _, value = line.decode().strip().partition(":")
                    if name == "data" and value.strip() != "[DONE]":
                        yield from self._in_event(json.loads(value))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise AOTError(f"the answer of {self._url} broke off ({first_line(error)}); ask again") from error

    def _in_event(self, event: dict[str, Any]) -> Generator[list[int], None, None]:
        if "error" in event:
            raise self._refusal(event)
        for choice in event.get("choices") or ():
            if choice.get("token_ids") is None:
                raise ModelError(f"{self._url} returns no token ids; use a newer vLLM")
            if choice["token_ids"]:
                yield choice["token_ids"]

    def _served_model(self) -> str:
        with closing(self._connection()) as connection:
            response = self._response(connection, "GET", "/v1/models")
            try:
                return str(json.loads(response.read())["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ModelError(f"{self._url} is no vLLM server: it lists no models under /v1/models") from error

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=_CONNECT_S)

    def _response(self, connection: Any, method: str, path: str, body: bytes | None = None) -> Any:
        """Return the response to a request.

        Raises:
            AOTError: If there is none, or it is an error.
        """
        try:
            connection.connect()
            connection.sock.settimeout(_READ_S)
            connection.request(method, self._parts.path + path, body, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(
                f"{self._url} cannot be reached ({first_line(error) or type(error).__name__}); start a server: "
                "aot export MODEL -o FOLDER && vllm serve FOLDER --enable-prompt-embeds"
            ) from error
        if response.status == 200:
            return response
        try:
            found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            found = {}
        raise self._refusal(found if isinstance(found, dict) else {}, response.status)

    def _refusal(self, found: dict[str, Any], status: int = 500) -> AOTError:
        """Return the error that the server's words mean."""
        error = found.get("error")
        said = str(error.get("message") if isinstance(error, dict) else error or found or "nothing")[:_MOST_SHOWN]
        if status == 401:
            return ConfigError(f"{self._url} asks for an API key; give it with --engine-api-key")
        if "enable-prompt-embeds" in said or "enable_prompt_embeds" in said:
            return ConfigError(f"{self._url} takes no embeddings; start it with --enable-prompt-embeds")
        if "hidden_size" in said:
            return ConfigError(
                f"{self._url} serves {self.model}, which is the language model of another checkpoint ({said}); "
                "serve the folder that aot export writes"
            )
        kind = ConfigError if 400 <= status < 500 else AOTError
        return kind(f"{self._url} refuses the request, status {status} ({said}); see its log")
