"""The exported language model gives the logits of the whole network for our prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aot.config.schema import Config, ModelConfig
from aot.errors import ConfigError, ModelError, OutputError, UnsupportedError
from aot.models import load_model
from aot.models.composed import ComposedModel
from aot.serving.engines import export
from aot.serving.engines.export import (
    cached_language_model,
    check_exportable,
    check_target,
    export_language_model,
    stored_dtype,
)
from aot.serving.engines.options import EngineOptions, check_engine, open_engine
from tests.support.original_checkpoint import make_twins
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.tiny_internvl import make_internvl

Maker = Callable[[Path], Path]


def load(folder: Path) -> ComposedModel:
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
    assert isinstance(model, ComposedModel)
    return model


@pytest.mark.parametrize("make", [make_checkpoint, lambda folder: make_twins(folder)[0], make_internvl])
def test_logits(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    model, folder = load(make(tmp_path / "whole")), tmp_path / "alone"
    files = {path.name for path in export_language_model(model, folder)}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    embeddings = torch.randn(1, 9, alone.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = model.language(inputs_embeds=embeddings).last_hidden_state
        expected = model.network.get_output_embeddings()(states)
        assert torch.equal(alone(inputs_embeds=embeddings).logits, expected)
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == model.tokenizer("a b")["input_ids"]
    assert alone.generation_config.eos_token_id == model.network.generation_config.eos_token_id


def test_large_models_have_several_files(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(small_folder)
    export_language_model(model, tmp_path)
    monkeypatch.setattr(export, "_LARGEST_FILE", "20KB")
    names = [path.name for path in export_language_model(model, tmp_path)]  # over the first one
    assert "model.safetensors.index.json" in names and "model.safetensors" not in names
    alone = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(alone.get_input_embeddings().weight, model.network.get_input_embeddings().weight)


def test_an_interrupted_export_is_no_model(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(small_folder)
    export_language_model(model, tmp_path)

    def full(*_: object) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr(export, "_write_weights", full)
    with pytest.raises(OutputError):
        export_language_model(model, tmp_path)
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(ConfigError, match="is no exported language model"):
        monkeypatch.setattr("aot.serving.engines.vllm_here.check_vllm", lambda: None)
        check_engine(EngineOptions("vllm", folder=tmp_path), Config())


def test_the_cache_holds_one_export_of_a_checkpoint(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load(small_folder)
    folder = cached_language_model(model)
    assert folder.is_relative_to(tmp_path) and folder.name.startswith(small_folder.name)
    written_ns = (folder / "config.json").stat().st_mtime_ns
    assert cached_language_model(load(small_folder)) == folder
    assert (folder / "config.json").stat().st_mtime_ns == written_ns
    (small_folder / "model.safetensors").touch()  # as if it were another one
    assert cached_language_model(model) != folder


def test_the_stored_number_format() -> None:
    shapes = ModelConfig(name="shapes", device="cpu")
    assert stored_dtype(shapes, None).dtype == "bfloat16"
    assert stored_dtype(ModelConfig(name="shapes", dtype="float16"), None).dtype == "float16"


def test_what_cannot_be_exported(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="--quantize 4bit changes"):
        check_exportable(ModelConfig(quantize="4bit"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not empty"):
        check_target(tmp_path, overwrite=False)
    check_target(tmp_path, overwrite=True)
    model = load(small_folder)
    monkeypatch.setattr(type(model), "language", model.tower)
    with pytest.raises(ModelError, match="use --engine transformers"):
        export_language_model(model, tmp_path / "other")


def test_a_folder_of_another_width(small_folder: Path, tmp_path: Path) -> None:
    model = load(small_folder)
    for text, error, says in (("{}", ConfigError, "another checkpoint"), ("[", ModelError, "no readable config.json")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(error, match=says):
            open_engine(model, EngineOptions("vllm", folder=tmp_path))
