"""The flags of engines, `aot export` and `aot compress --format prompt-embeds`; with a stand-in of a vLLM server."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import torch

from tests.support.cli_run import Aot
from tests.support.vllm_stand_in import chunk, standing_in

# --- The flags


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--engine", "vllm"), 'pip install "aot[vllm]"'),
        (("--engine", "vllm", "--inner", "fastv"), "--inner fastv drops tokens inside the language model"),
        (("--engine", "vllm", "--set", "model.positions=original"), "model.positions original"),
        (("--engine-set", "a=1"), "--engine-set has no effect on --engine transformers"),
        (("--engine-url", "http://x", "--engine-set", "a=1"), "--engine-set are for vLLM in this process"),
        (("--engine", "vllm", "--engine-set", "a"), "a is not NAME=VALUE"),
        (("--engine-url", "nowhere"), "nowhere is no address"),
    ],
)
def test_refused_before_anything_is_loaded(
    flags: tuple[str, ...], says: str, run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aot_cli.steps.load_found", None)
    monkeypatch.setattr("aot.serving.engines.vllm_here.find_spec", lambda name: None)
    run = run_aot("ask", clip_file, "what?", "--model", "shapes", *flags)
    assert (run.code, run.out) == (2, "") and says in run.err


def test_an_answer_from_a_server(run_aot: Aot, clip_file: Path) -> None:
    with standing_in(chunk(100, 2)) as server:
        run = run_aot("ask", clip_file, "what happens?", "--model", "shapes", "--engine-url", server.url, "--json")
    assert run.code == 0
    found = json.loads(run.out)
    assert found["engine"] == "vllm" and found["answers"][0]["output_tokens"] == 2 and found["answer"]


def test_a_server_is_reached_before_the_model_is_loaded(
    run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aot_cli.steps.load_found", None)
    run = run_aot("ask", clip_file, "what?", "--model", "shapes", "--engine-url", "http://127.0.0.1:1")
    assert run.code == 4 and "cannot be reached" in run.err


def test_qwen_is_refused_before_it_is_loaded(
    run_aot: Aot, clip_file: Path, qwen25_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aot_cli.steps.load_found", None)
    with standing_in() as server:
        run = run_aot("ask", clip_file, "what?", "--model", qwen25_folder, "--engine-url", server.url)
    assert run.code == 2 and "by time, row and column" in run.err


# --- aot compress --format prompt-embeds


def test_a_prompt_as_a_file(run_aot: Aot, clip_file: Path, small: tuple[str, ...]) -> None:
    line = ("compress", clip_file, *small, "--format", "prompt-embeds")
    run = run_aot(*line, "-q", "what happens?", "--json")
    assert run.code == 0 and json.loads(run.out)["tokens_file"] == "clip.prompt.json"
    body = json.loads(Path("clip.prompt.json").read_text())
    embeddings = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    assert embeddings.dim() == 2 and body["max_tokens"] == 256 and body["temperature"] == 0
    for more, says in (
        ((), "give one question"),
        (("-q", "why?", "-q", "how?"), "give one question"),
        (("-q", "why?", "-o", "p.pt"), "must end in .json"),
        (("-q", "why?", "--inner", "fastv", "--force"), "--inner fastv"),
    ):
        run = run_aot(*line, *more)
        assert run.code == 2 and says in run.err


# --- aot export


def test_the_command(run_aot: Aot, tmp_path: Path) -> None:
    run = run_aot("export", "shapes", "-o", tmp_path / "lm")
    assert (run.code, run.out) == (0, f"{tmp_path / 'lm'}\n") and "4.5 MB, bfloat16" in run.err
    config = json.loads((tmp_path / "lm/config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"] and config["dtype"] == "bfloat16"
    assert not any(name.startswith("_") for name in config)
    again = run_aot("export", "shapes", "-o", tmp_path / "lm")
    assert again.code == 1 and "--force" in again.err
    assert run_aot("export", "shapes", "-o", tmp_path / "lm", "--force", "--dtype", "float32").code == 0
    assert json.loads((tmp_path / "lm/config.json").read_text())["dtype"] == "float32"


def test_the_command_refuses_qwen(run_aot: Aot, qwen25_folder: Path, tmp_path: Path) -> None:
    run = run_aot("export", qwen25_folder, "-o", tmp_path / "lm")
    assert run.code == 2 and "by time, row and column" in run.err
