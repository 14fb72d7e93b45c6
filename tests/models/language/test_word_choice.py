"""Greedy answers touch no random state, drawn ones follow softmax(logits / temperature) and their seed alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig as Stock

from aot.compression.methods import build_method
from aot.config.schema import Config, GenerationConfig, ModelConfig
from aot.models import VideoModel, load_model
from aot.models.language.word_choice import SeededChoice, _filters, ignored_settings, understood_settings
from aot.types import CompressedTokens
from tests.support.model_inputs import frames_for

QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why"]
DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf])


def kept(model: VideoModel) -> CompressedTokens:
    method = build_method(Config(ratio=0.2))
    return method.compress(model.encode(frames_for(model), method.needs), 20)  # type: ignore[arg-type]


def drawn(options: GenerationConfig, model: VideoModel, question: str = QUESTIONS[0]) -> str:
    return "".join(model.generate(kept(model), question, options))


# --- The draw


def shares(temperature: float, **settings: Any) -> Tensor:
    """How often each word is drawn, in as many steps."""
    choice = SeededChoice(temperature, 3, torch.empty(len(LOGITS)), _filters(Stock(**settings)))
    words = [draw(choice, LOGITS[None]) for _ in range(DRAWS)]
    return torch.bincount(torch.cat(words), minlength=len(LOGITS)) / DRAWS


def draw(choice: SeededChoice, logits: Tensor) -> Tensor:
    choice.wind()
    return choice(logits)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_words_are_drawn_from_the_softmax(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(-1)
    error = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((shares(temperature) - expected).abs() <= 4 * error).all()


@pytest.mark.parametrize(("settings", "left"), [({"top_k": 2}, 2), ({"top_p": 0.8}, 3), ({"min_p": 0.2}, 3)])
def test_the_checkpoints_filters_hold(settings: dict[str, Any], left: int) -> None:
    expected = LOGITS.masked_fill(torch.arange(len(LOGITS)) >= left, -torch.inf).softmax(-1)
    error = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((shares(1.0, **settings) - expected).abs() <= 4 * error).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 5e-324])
def test_hardly_any_temperature_is_greedy(temperature: float) -> None:
    assert draw(SeededChoice(temperature, 0, torch.empty(6)), LOGITS[None]).tolist() == [0]


def test_rows_of_a_batch_draw_what_they_draw_alone() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, *alone = (SeededChoice(1.0, 5, torch.empty(50)) for _ in range(4))
    for _ in range(10):
        expected = torch.cat([draw(choice, row[None]) for choice, row in zip(alone, rows, strict=True)])
        assert torch.equal(draw(together, rows), expected)


# --- Answers


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_answer_touches_the_global_generator(small_model: VideoModel, temperature: float) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    options = GenerationConfig(max_new_tokens=6, temperature=temperature)
    drawn(options, small_model)
    small_model.read(kept(small_model)).answers(QUESTIONS, options)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_seeds_draw_equal_words(small_model: VideoModel) -> None:
    def of(seed: int) -> str:
        torch.rand(seed + 1)  # whatever else draws
        return drawn(GenerationConfig(max_new_tokens=12, temperature=2.0, seed=seed), small_model)

    first = [of(seed) for seed in range(4)]
    assert [of(seed) for seed in range(4)] == first
    assert len(set(first)) > 1


def test_drawn_answers_are_the_same_together_and_alone(small_model: VideoModel) -> None:
    options = GenerationConfig(max_new_tokens=12, temperature=1.5, seed=4)
    expected = [drawn(options, small_model, question) for question in QUESTIONS]
    assert small_model.read(kept(small_model)).answers(QUESTIONS, options) == expected


# --- What a checkpoint asks for

# None says which of the words may come next.
UNFOLLOWED = {
    "stop_strings": ["a"],
    "dola_layers": "low",
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "num_return_sequences": 2,
    "guidance_scale": 1.5,
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 2.0, "seeding_scheme": "lefthash"},
    "return_dict_in_generate": True,
    "token_healing": True,
    "cache_implementation": "quantized",
    "max_time": 1e-9,
    "force_words_ids": [[1]],
    "constraints": ["a"],
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "forced_eos_token_id": 10**9,
    "exponential_decay_length_penalty": [1],
    "sequence_bias": "a",
    "repetition_penalty": -1.0,
    "suppress_tokens": "a",
    "made_up": 1,
}


@pytest.fixture
def with_settings(small_folder: Path, tmp_path: Path) -> Any:
    """A function that loads the small checkpoint with more in its generation_config.json."""

    def load(**settings: Any) -> Any:
        folder = tmp_path / "model"
        shutil.copytree(small_folder, folder, dirs_exist_ok=True)
        own = json.loads((small_folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(own | settings))
        return load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))

    return load


@pytest.mark.parametrize("settings", [{name: value} for name, value in UNFOLLOWED.items()] + [UNFOLLOWED])
def test_what_cannot_be_followed_is_left_out(small_model: Any, with_settings: Any, settings: dict[str, Any]) -> None:
    options = GenerationConfig(max_new_tokens=4)
    model, tokens = with_settings(**settings), kept(small_model)
    expected = "".join(small_model.generate(tokens, QUESTIONS[0], options))
    assert "".join(model.generate(tokens, QUESTIONS[0], options)) == expected
    assert model.read(tokens).answers(QUESTIONS[:1], options) == [expected]
    assert ignored_settings(settings) == list(settings)
    (notice,) = model.notices
    assert all(name in notice for name in settings)


def test_nothing_is_left_out_of_usual_files(small_model: Any) -> None:
    usual = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    ids = {"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151643}
    assert understood_settings(usual | ids) == {
        name: value for name, value in (usual | ids).items() if name not in {"do_sample", "temperature"}
    }
    assert not ignored_settings(usual | ids | {"transformers_version": "5", "top_p": 1.0, "stop_strings": None})
    assert not small_model.notices


def test_filters_of_the_checkpoint_reach_the_draw(with_settings: Any) -> None:
    """With the one likeliest word left, drawing is greedy."""
    model = with_settings(top_k=1)
    hot = GenerationConfig(max_new_tokens=8, temperature=50.0)
    assert drawn(hot, model) == drawn(GenerationConfig(max_new_tokens=8), model)
