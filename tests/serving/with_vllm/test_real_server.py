"""A vLLM server gives the ids of our own decoding too, and says what it lacks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from aot.config.schema import GenerationConfig
from aot.errors import ConfigError
from aot.models.composed import ComposedModel
from aot.serving.engines.answers import EngineAnswerer
from aot.serving.engines.vllm_http import VllmServer, prompt_body

OPTIONS = GenerationConfig(max_new_tokens=60)
PATIENCE_S = 120


@contextmanager
def serving(folder: Path, log: Path, *flags: str) -> Iterator[str]:
    """Yield the address of a server with the language model in `folder`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *flags]
    words += ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(words, env=os.environ, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def url(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(exported, tmp_path_factory.mktemp("log") / "log", "--enable-prompt-embeds", "--api-key", "k") as url:
        yield url


def test_a_hundred_answers_have_our_ids(asked: list[Any], model: ComposedModel, url: str) -> None:
    answerer = EngineAnswerer(model, VllmServer(f"{url}/v1", "k"))

    def ids(each: Any) -> list[int]:
        answer = answerer.generate(each.tokens, each.question, OPTIONS)
        assert "".join(answer)
        return answer.ids

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ids, asked)) == [each.ids for each in asked]


def test_the_body_of_a_file_is_all_that_the_server_needs(asked: list[Any], model: ComposedModel, url: str) -> None:
    body = json.dumps({**prompt_body(model, asked[0].tokens, asked[0].question, OPTIONS), "return_token_ids": True})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
    with urlopen(Request(f"{url}/v1/completions", body.encode(), headers)) as response:
        assert json.load(response)["choices"][0]["token_ids"] == asked[0].ids


def test_another_width_and_no_key(url: str) -> None:
    server = VllmServer(url, "k")
    server.check(192)
    with pytest.raises(ConfigError, match="the language model of another checkpoint"):
        server.check(64)
    with pytest.raises(ConfigError, match="--engine-api-key"):
        VllmServer(url)


def test_a_server_that_takes_no_embeddings(exported: Path, tmp_path: Path) -> None:
    with (
        serving(exported, tmp_path / "log") as url,
        pytest.raises(ConfigError, match="start it with --enable-prompt-embeds"),
    ):
        VllmServer(url).check(192)
