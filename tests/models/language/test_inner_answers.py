"""Answers of a video model with a reduction inside its language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from aot.compression.in_llm import divide
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.plugins import INNER
from aot.reports.retention import language_model_load
from aot.types import CompressedTokens
from tests.support.model_inputs import frames_for

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why"]
GREEDY = GenerationConfig(max_new_tokens=12)
FRAMES = 4


def config(name: str, method: str = "uniform", ratio: float = 0.4) -> Config:
    return build_config({"ratio": ratio, "method": method, "inner": {"name": name}})


def tokens_for(model: Llava, asked: Config) -> CompressedTokens:
    outer = divide(asked, model.language_layers)[0]
    method = build_method(outer)
    budget = outer.token_budget(FRAMES, model.tokens_per_frame)
    return method.compress(model.encode(frames_for(model, FRAMES), method.needs), budget)


@pytest.mark.parametrize("name", INNER)
def test_all_ways_to_ask_give_one_answer(small_model: Llava, name: str) -> None:
    asked = config(name)
    tokens, inner = tokens_for(small_model, asked), divide(asked, small_model.language_layers)[1]
    alone = ["".join(small_model.generate(tokens, question, GREEDY, inner)) for question in QUESTIONS]
    assert len(set(alone)) > 1
    reading = small_model.read(tokens, inner)
    assert reading.answers(QUESTIONS, GREEDY) == alone
    reply = reading.generate(QUESTIONS[0], GREEDY)
    assert "".join(reply) == alone[0] == "".join(reply)


@pytest.mark.parametrize("name", INNER)
def test_the_load_is_the_ratio(small_model: Llava, name: str) -> None:
    """As near as whole tokens allow: one in each layer."""
    asked = config(name)
    tokens, inner = tokens_for(small_model, asked), divide(asked, small_model.language_layers)[1]
    reply = small_model.generate(tokens, QUESTIONS[0], GREEDY, inner)
    assert reply.layer_tokens == ()
    assert "".join(reply)
    total = FRAMES * small_model.tokens_per_frame
    assert len(reply.layer_tokens) == small_model.language_layers
    assert language_model_load(reply.layer_tokens, total) == pytest.approx(0.4, abs=1.5 / total)
    assert reply.layer_tokens[-1] < len(tokens.features)


@pytest.mark.parametrize("newline", ["one_token", "none"])
def test_a_reduction_changes_what_is_read(small_model: Llava, newline: str) -> None:
    model = Llava(
        small_model.network, small_model.tokenizer,
        ModelConfig(newline=newline), small_model.identity,  # type: ignore[arg-type]
    )  # fmt: skip
    asked = config("fastv", "none", ratio=0.7)
    tokens, inner = tokens_for(model, asked), divide(asked, model.language_layers)[1]
    assert len(tokens.features) == FRAMES * model.tokens_per_frame
    long = GenerationConfig(max_new_tokens=40)
    plain, reduced = (model.generate(tokens, QUESTIONS[0], long, each) for each in (None, inner))
    assert "".join(plain) != "".join(reduced)
    assert plain.prompt_tokens == reduced.prompt_tokens
    assert plain.layer_tokens == (len(tokens.features),) * 3
    assert model.read(tokens).generate(QUESTIONS[0], GREEDY).layer_tokens == plain.layer_tokens


def test_under_a_repetition_penalty(small_folder: Path, tmp_path: Path) -> None:
    """The whole prompt counts, so an answer of all tokens is the same with and without the reading by layers."""
    folder = tmp_path / "penalty"
    shutil.copytree(small_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 1.5}))
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    assert isinstance(model, Llava)
    tokens = tokens_for(model, config("fastv"))
    whole = divide(
        build_config({"inner": {"name": "fastv", "budget": "extra", "settings": {"fastv": {"keep": 1}}}}), 3
    )[1]
    assert whole is not None
    answers = ["".join(model.generate(tokens, QUESTIONS[0], GREEDY, inner)) for inner in (None, whole)]
    assert answers[0] == answers[1]


def test_half_precision(small_folder: Path) -> None:
    model = load_model(ModelConfig(name=str(small_folder), device="cpu", dtype="bfloat16"))
    assert isinstance(model, Llava)
    for name in INNER:
        asked = config(name)
        reply = model.generate(tokens_for(model, asked), "hi?", GREEDY, divide(asked, model.language_layers)[1])
        assert "".join(reply)
    assert model.network.dtype == torch.bfloat16
