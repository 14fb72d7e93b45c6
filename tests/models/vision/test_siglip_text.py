"""SigLIP's text tower against transformers' own, and what is said where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, SiglipModel

from aot.compression.ops.frame_choice import text_scores
from aot.config.schema import ModelConfig
from aot.errors import ModelError
from aot.models.families.llava import Llava
from aot.models.vision.frame_scores import ByTextTower, ByWords
from aot.models.vision.siglip_text import SiglipText
from aot.types import Needs
from tests.support.model_inputs import frames_for, variant
from tests.support.tiny_checkpoint import WEIGHTS, drop_weights, make_siglip_head

QUESTIONS = ["Where is the red dog?", "who runs", "the red " * 40]


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip_head(tmp_path_factory.mktemp("siglip"), grid=9)


@pytest.fixture
def folder(siglip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(siglip_folder, tmp_path / "siglip"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SiglipText | None:
    return SiglipText.load(ModelConfig(siglip_head=str(folder)), torch.zeros(1, dtype=dtype))


@torch.inference_mode()
def stock(folder: Path, texts: list[str]) -> torch.Tensor:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    model = SiglipModel.from_pretrained(folder).eval()
    output = model.get_text_features(input_ids=inputs["input_ids"])
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def test_equals_the_text_features_of_transformers(siglip_folder: Path) -> None:
    text = load(siglip_folder)
    assert text is not None
    found = text(QUESTIONS)
    torch.testing.assert_close(found, stock(siglip_folder, QUESTIONS), rtol=1e-5, atol=1e-5)
    assert found.shape == (3, 32) and found.std(0).mean() > 1e-3
    torch.testing.assert_close(text(["WHERE is  the red dog"]), found[:1])  # the tokenizer drops punctuation


def test_takes_the_dtype_of_the_model(siglip_folder: Path) -> None:
    text = load(siglip_folder, torch.bfloat16)
    assert text is not None and text(["red"]).dtype == torch.bfloat16


@pytest.mark.parametrize("lacks", ["weights", "tokenizer", "config"])
def test_without_a_text_tower_the_words_are_used(folder: Path, small_model: Llava, lacks: str) -> None:
    if lacks == "weights":
        drop_weights(folder, "text_model.")
    elif lacks == "tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"text_config"', '"other_config"'))
    assert load(folder) is None
    scorer = variant(small_model, siglip_head=str(folder)).frame_scorer(["a red dog?"])
    assert isinstance(scorer, ByWords)
    assert "has no text tower" in scorer.by


def test_half_a_tower_is_refused(folder: Path) -> None:
    drop_weights(folder, "text_model.final_layer_norm.weight")
    with pytest.raises(ModelError, match="pass a full SigLIP checkpoint"):
        load(folder)


def test_damage_is_explained(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["text_model.head.bias"] = torch.zeros(3)
    (folder / WEIGHTS).unlink()
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ModelError):
        load(folder)


def test_frames_are_scored_by_the_tower(siglip_folder: Path, small_model: Llava) -> None:
    model = variant(small_model, siglip_head=str(siglip_folder))
    visual = model.encode(frames_for(model, 5), Needs(frame_embeddings=True))
    assert visual.frame_embeddings is not None
    scorer = model.frame_scorer(QUESTIONS)
    assert isinstance(scorer, ByTextTower) and str(siglip_folder) in scorer.by
    scorer.add(visual)
    expected = text_scores(stock(siglip_folder, QUESTIONS), visual.frame_embeddings)
    torch.testing.assert_close(scorer.scores(), expected, rtol=1e-5, atol=1e-5)


def test_other_widths_are_refused(tmp_path: Path, small_model: Llava) -> None:
    visual = small_model.encode(frames_for(small_model, 1), Needs(frame_embeddings=True))
    with pytest.raises(ModelError, match="width 48"):
        ByTextTower(torch.zeros(1, 48), "some tower").add(visual)
