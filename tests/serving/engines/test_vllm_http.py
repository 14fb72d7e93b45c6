"""The client of a vLLM server, with a server of the test that answers as vLLM does."""

from __future__ import annotations

import base64
import io

import pytest
import torch

from aot.errors import AOTError, ConfigError, ModelError, UnsupportedError
from aot.serving.engines.base import EngineRequest, Sampling
from aot.serving.engines.vllm_http import VllmServer, completion_body
from tests.support.vllm_stand_in import chunk, standing_in

SAMPLING = Sampling(4, 0, 0.0, 0, [2], 1.0, 0, 1.0, 0.0)


def request(width: int = 8) -> EngineRequest:
    return EngineRequest(torch.arange(3.0 * width).view(3, width).bfloat16(), [5, 6, 7], SAMPLING)


def test_ids_come_as_they_are_sent() -> None:
    with standing_in(chunk(4), chunk(), chunk(5, 2), {"choices": []}, "[DONE]") as server:
        engine = VllmServer(f"{server.url}/v1/", "secret")
        assert list(engine.begin(request())) == [[4], [5, 2]]
    ((path, body, key),) = server.got
    assert (path, key) == ("/v1/completions", "Bearer secret")
    embeddings = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    assert torch.equal(embeddings, request().embeddings) and embeddings.dtype == torch.bfloat16
    assert body["model"] == "lm" and body["stream"] and body["return_token_ids"]
    assert body["temperature"] == 0 and body["stop_token_ids"] == [2] and body["top_p"] == 1  # no default of a server


def test_a_view_of_other_rows_is_sent_alone() -> None:
    view = torch.zeros(1000, 8)[:2]
    body = completion_body(EngineRequest(view, [0, 0], SAMPLING))
    assert len(body["prompt_embeds"]) < 4000


@pytest.mark.parametrize(
    "status, message, kind, says",
    [
        (400, "You must set `--enable-prompt-embeds` to input", ConfigError, "start it with --enable-prompt-embeds"),
        (400, "`prompt_embeds` hidden_size 8 does not match", ConfigError, "serves lm, which is .* another checkpoint"),
        (401, "Unauthorized", ConfigError, "--engine-api-key"),
        (400, "too long", ConfigError, r"status 400 \(too long\)"),
        (500, "engine dead", AOTError, r"status 500 \(engine dead\)"),
    ],
)
def test_refusals(status: int, message: str, kind: type[Exception], says: str) -> None:
    with standing_in({"error": {"message": message}}, status=status) as server, pytest.raises(kind, match=says):
        VllmServer(server.url).check(8)


def test_servers_of_other_kinds() -> None:
    with standing_in(models={"detail": "hello"}) as server, pytest.raises(ModelError, match="is no vLLM server"):
        VllmServer(server.url)
    with standing_in({"choices": [{"text": "no ids"}]}) as server, pytest.raises(ModelError, match="no token ids"):
        VllmServer(server.url).check(8)
    with standing_in("{broken") as server, pytest.raises(AOTError, match="broke off"):
        VllmServer(server.url).check(8)
    with standing_in({"error": {"message": "died"}}) as server, pytest.raises(AOTError, match="died"):
        VllmServer(server.url).check(8)
    with pytest.raises(ModelError, match=r"cannot be reached .* vllm serve FOLDER --enable-prompt-embeds"):
        VllmServer(server.url)  # it has ended
    with pytest.raises(ConfigError, match="is no address"):
        VllmServer("localhost:8000")


def test_a_penalty_reads_ids_that_the_door_does_not_take() -> None:
    penalty = Sampling(4, 0, 0.0, 0, [2], 1.1, 0, 1.0, 0.0)
    with pytest.raises(UnsupportedError, match="repetition_penalty"):
        completion_body(EngineRequest(torch.zeros(1, 8), [0], penalty))
