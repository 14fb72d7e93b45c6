"""Original positions: what is kept stands where it stood in the whole prompt, and answers go on from its end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from aot.compression.in_llm import divide
from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.errors import ConfigError
from aot.models import load_model
from aot.models.composed import ComposedModel
from aot.models.families.llava import Llava
from aot.models.language.prompt import NEWLINE, TEXT, VideoPrompt
from aot.plugins import INNER
from aot.types import CompressedTokens
from tests.support.keep_all import KeepAll
from tests.support.model_inputs import PROMPTS, QUESTION, frames_for, stock_inputs, variant
from tests.support.tiny_internvl import make_internvl

FRAMES, SIDE = 4, 5
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "what moves?"]
GREEDY = GenerationConfig(max_new_tokens=12)
NEWLINES = ("one_token", "none", "grid", "every_row", "frame", "frame_rows")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def kept(model: Any, config: Config) -> CompressedTokens:
    outer = divide(config, model.language_layers)[0]
    method = build_method(outer)
    budget = outer.token_budget(FRAMES, model.tokens_per_frame)
    return method.compress(model.encode(frames_for(model, FRAMES), method.needs), budget)


@pytest.fixture(scope="module")
def model(small_model: Llava) -> Llava:
    return variant(small_model, positions="original")


def positions_of(prompt: VideoPrompt) -> list[int]:
    assert prompt.positions is not None and prompt.positions.shape == prompt.ids.shape
    found: list[int] = prompt.positions[0].tolist()
    return found


@torch.inference_mode()
def logits(model: ComposedModel, prompt: VideoPrompt) -> torch.Tensor:
    hidden = model.language(**prompt.language_inputs(), use_cache=True).last_hidden_state
    found: torch.Tensor = model.network.lm_head(hidden)
    return found


# --- All tokens: nothing changes


@pytest.mark.parametrize("config", [Config(method="none"), Config(ratio=1.0)])
def test_with_all_tokens_logits_are_the_stock_models(model: Llava, small_folder: Path, config: Config) -> None:
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(small_folder, dtype="float32").eval()
    with torch.inference_mode():
        expected = stock(**stock_inputs(model, frames_for(model, FRAMES), PROMPTS["native"])).logits
    prompt = model.prompt(kept(model, config), QUESTION)
    assert positions_of(prompt) == list(range(prompt.ids.shape[1]))
    torch.testing.assert_close(logits(model, prompt), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("newline", NEWLINES)
def test_with_all_tokens_positions_have_no_gaps(small_model: Llava, newline: str) -> None:
    model = variant(small_model, positions="original", newline=newline, time_instruction=True)
    prompt = model.prompt(kept(model, Config(method="none")), QUESTION)
    assert positions_of(prompt) == list(range(prompt.ids.shape[1]))
    assert prompt.next_position == prompt.ids.shape[1]


# --- Few tokens


@pytest.mark.parametrize("order", ["raster", "method"])
@pytest.mark.parametrize("method", ["fastvid", "attention", "aot"])
@pytest.mark.parametrize("newline", NEWLINES)
def test_what_is_kept_stands_where_it_stood(small_model: Llava, newline: str, method: str, order: str) -> None:
    model = variant(small_model, positions="original", newline=newline, token_order=order)
    whole, tokens = kept(model, Config(method="none")), kept(model, Config(method=method, ratio=0.2))
    all_rows, few = model.prompt(whole, QUESTION), model.prompt(tokens, QUESTION)
    where = {int(token): row for row, token in enumerate(all_rows.token) if token >= 0}  # all kept: tokens are cells
    newlines = {row for row, token in enumerate(all_rows.token) if token == NEWLINE}
    found = positions_of(few)
    assert [found[row] for row, token in enumerate(few.token) if token >= 0] == [
        where[int(tokens.cell[token])] for token in few.token if token >= 0
    ]
    assert {found[row] for row, token in enumerate(few.token) if token == NEWLINE} <= newlines
    text = [found[row] for row, token in enumerate(few.token) if token == TEXT]
    assert text == [row for row, token in enumerate(all_rows.token) if token == TEXT]
    if order == "raster" and method != "aot":
        assert all(one < other for one, other in pairwise(found))


@torch.inference_mode()
def answered_by_hand(model: Llava, prompt: VideoPrompt, new: int) -> list[int]:
    """Greedy ids without a cache: the whole is read anew for each, all rows at the positions given."""
    embeddings, positions = prompt.embeddings, torch.tensor([positions_of(prompt)])
    stop, ids = model.network.generation_config.eos_token_id, list[int]()
    while len(ids) < new:
        mask = torch.ones(positions.shape, dtype=torch.long)
        hidden = model.language(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask).last_hidden_state
        ids.append(int(model.network.lm_head(hidden)[0, -1].argmax()))
        if ids[-1] in (stop if isinstance(stop, list) else [stop]):
            break
        embedded = model.network.get_input_embeddings()(torch.tensor([[ids[-1]]]))
        embeddings = torch.cat([embeddings, embedded], 1)
        positions = torch.cat([positions, positions[:, -1:] + 1], 1)
    return ids


@pytest.mark.parametrize("newline", ["one_token", "grid"])
def test_answers_go_on_from_the_end_of_the_whole(small_model: Llava, newline: str) -> None:
    model = variant(small_model, positions="original", newline=newline)
    tokens = kept(model, Config(method="fastvid", ratio=0.2))
    alone = ["".join(model.generate(tokens, question, GREEDY)) for question in QUESTIONS]
    for question, answer in zip(QUESTIONS, alone, strict=True):
        by_hand = answered_by_hand(model, model.prompt(tokens, question), GREEDY.max_new_tokens)
        assert answer == model.tokenizer.decode(by_hand, skip_special_tokens=True)
    reading = model.read(tokens)
    assert reading.answers(QUESTIONS, GREEDY) == alone
    assert ["".join(reading.generate(question, GREEDY)) for question in QUESTIONS] == alone


def test_positions_change_what_is_read(small_model: Llava, model: Llava) -> None:
    tokens = kept(model, Config(method="fastvid", ratio=0.2))
    packed, original = (logits(each, each.prompt(tokens, QUESTION)) for each in (small_model, model))
    assert small_model.prompt(tokens, QUESTION).positions is None
    assert (packed - original).abs().max() > 1e-3


# --- Reductions inside the language model


def test_a_reduction_that_keeps_all_changes_nothing(model: Llava) -> None:
    tokens = kept(model, Config(method="fastvid", ratio=0.2))
    for question in QUESTIONS:
        plain, layered = (model.generate(tokens, question, GREEDY, inner) for inner in (None, KeepAll()))
        assert "".join(plain) == "".join(layered)


@pytest.mark.parametrize("name", INNER)
def test_reductions_read_what_is_left_where_it_stood(model: Llava, name: str) -> None:
    asked = build_config({"ratio": 0.4, "method": "uniform", "inner": {"name": name}})
    tokens, inner = kept(model, asked), divide(asked, model.language_layers)[1]
    alone = ["".join(model.generate(tokens, question, GREEDY, inner)) for question in QUESTIONS]
    assert model.read(tokens, inner).answers(QUESTIONS, GREEDY) == alone


# --- Other families, and what cannot be


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_internvl(tmp_path: Path, ratio: float) -> None:
    folder = make_internvl(tmp_path / "internvl", text="qwen2")
    packed, model = (
        load_model(ModelConfig(name=str(folder), device="cpu", positions=positions))  # type: ignore[arg-type]
        for positions in ("auto", "original")
    )
    assert isinstance(packed, ComposedModel) and isinstance(model, ComposedModel)
    assert (packed.placement["positions"], model.placement["positions"]) == ("packed", "original")
    whole, tokens = kept(model, Config(method="none")), kept(model, Config(method="attention", ratio=ratio))
    all_rows, few = model.prompt(whole, QUESTION), model.prompt(tokens, QUESTION)
    assert positions_of(all_rows) == list(range(all_rows.ids.shape[1]))
    cells = {int(tokens.cell[token]) for token in few.token if token >= 0}
    rows = [row for row, token in enumerate(all_rows.token.tolist()) if token == TEXT or token in cells]
    assert positions_of(few) == rows
    if ratio == 1:
        torch.testing.assert_close(logits(model, few), logits(packed, packed.prompt(tokens, QUESTION)), **CLOSE)
    alone = ["".join(model.generate(tokens, question, GREEDY)) for question in QUESTIONS]
    reading = model.read(tokens)  # type: ignore[attr-defined]
    assert reading.answers(QUESTIONS, GREEDY) == alone


def test_qwen_keeps_its_own(qwen25_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.positions packed does not work with Qwen-VL"):
        load_model(ModelConfig(name=str(qwen25_folder), device="cpu", positions="packed"))
    model = load_model(ModelConfig(name=str(qwen25_folder), device="cpu", positions="original"))
    assert model.placement["positions"] == "original"


def test_positions_past_the_models_last_are_refused(small_model: Llava, model: Llava) -> None:
    tokens = kept(model, Config(method="attention", ratio=0.1))
    end = model.prompt(tokens, QUESTION).next_position
    text = model.network.config.text_config
    limit, text.max_position_embeddings = text.max_position_embeddings, end - 1
    try:
        assert small_model.prompt(tokens, QUESTION).ids.shape[1] < end - 1
        with pytest.raises(ConfigError, match=f"ends at position {end}.*--set model.positions=packed"):
            model.prompt(tokens, QUESTION)
    finally:
        text.max_position_embeddings = limit
