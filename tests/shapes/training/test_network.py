"""The folder training writes is a LLaVA-OneVision that transformers loads without our code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aot.config.schema import ModelConfig
from aot.models import load_model
from aot.shapes.training.network import GRID, SPECIAL_TOKENS, build_network, build_tokenizer, save_folder, vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fresh") / "model"
    save_folder(build_network(0), path)
    return path


def test_it_is_three_million_parameters_and_six_megabytes(folder: Path) -> None:
    assert sum(p.numel() for p in build_network(0).parameters()) == pytest.approx(3.0e6, rel=0.02)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6


def test_a_seed_is_a_network() -> None:
    one, same, other = (build_network(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_what_was_saved_is_loaded(folder: Path) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    loaded, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    wanted = build_network(0).to(torch.bfloat16).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


def test_our_loader_takes_it_and_pools_the_odd_grid(folder: Path) -> None:
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    assert model.image_size == (90, 90)
    assert GRID == 15
    assert model.tokens_per_frame == 64


def test_a_word_is_a_token() -> None:
    tokenizer = build_tokenizer()
    words = ["what", "color", "is", "the", "star", "?"]
    assert tokenizer.encode("What color is the star?").tokens == words
    assert tokenizer.encode("what zebra").tokens == ["what", "<unk>"]
    assert tokenizer.decode([vocabulary().index(word) for word in words]) == "what color is the star?"
    assert vocabulary()[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
