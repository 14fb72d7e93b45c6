"""The stock arm: the ids of our answer with all tokens, by transformers' own `generate`, for each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aot.bench.decoded import DecodedVideo
from aot.bench.one_thread import one_thread
from aot.bench.stock import StockModel, as_loaded
from aot.config.schema import Config, GenerationConfig, ModelConfig, SamplingConfig
from aot.errors import UnsupportedError
from aot.models import load_model
from aot.pipeline.run import Pipeline
from tests.support.model_inputs import variant
from tests.support.tiny_internvl import make_internvl

ALL = Config(
    method="none", sampling=SamplingConfig(6), generation=GenerationConfig(max_new_tokens=32, min_new_tokens=32)
)
QUESTION = "what happens ?"


def loaded(name: str | Path) -> Any:
    return load_model(ModelConfig(name=str(name), device="cpu", dtype="float32"))


@pytest.fixture(params=["shapes", "small_folder", "qwen25_folder", "qwen3_folder", "internvl"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    name = request.param
    if name.endswith("folder"):
        return loaded(request.getfixturevalue(name))
    return loaded(make_internvl(tmp_path) if name == "internvl" else name)


def test_stock_writes_the_ids_of_our_answer_with_all_tokens(model: Any, clip_file: Path) -> None:
    frames = DecodedVideo.decode(clip_file, ALL.sampling, model)
    tokens = Pipeline(model, ALL).compress(frames).tokens
    kernels = {id(module.config): module.config._attn_implementation for module in attending(model)}
    stock = StockModel(model, frames.whole, model.prompt(tokens, QUESTION), ALL.generation)
    answer = stock.answer()
    assert answer.ids == list(model.generate(tokens, QUESTION, ALL.generation)._words())
    assert len(answer.ids) == 32
    assert 0 < answer.encode_ms < answer.first_token_ms < answer.answer_ms
    # Nothing is left behind in the network.
    assert kernels == {id(module.config): module.config._attn_implementation for module in attending(model)}
    assert not model.language._forward_pre_hooks


def attending(model: Any) -> list[Any]:
    return [module for module in model.network.modules() if hasattr(module, "config")]


def test_decoded_frames_are_what_the_pipeline_decodes(small_model: Any, clip_file: Path) -> None:
    """Also in chunks."""
    config = Config(method="none", sampling=SamplingConfig(7, segment_frames=3))
    frames = DecodedVideo.decode(clip_file, config.sampling, small_model)
    assert [len(chunk.pixels) for chunk in frames.chunks] == [2, 2, 3]
    assert len(frames.whole.timestamps_s) == len(frames.whole.pixels) == 7
    expected, found = (Pipeline(small_model, config).compress(video) for video in (clip_file, frames))
    assert torch.equal(found.tokens.features, expected.tokens.features)
    assert found.report.frames == expected.report.frames
    assert found.report.stage_ms["decode"] == 0


def test_what_transformers_cannot_run_is_refused(small_model: Any, clip_file: Path) -> None:
    frames = DecodedVideo.decode(clip_file, ALL.sampling, small_model)
    other = variant(small_model, pool="average")
    tokens = Pipeline(other, ALL).compress(frames).tokens
    with pytest.raises(UnsupportedError, match="pooling and newlines"):
        StockModel(other, frames.whole, other.prompt(tokens, QUESTION), ALL.generation)


def test_stock_runs_uncompiled_with_its_own_attention(small_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, language = small_model.tower.config, small_model.language
    monkeypatch.setattr(config, "_attn_implementation", "ours")
    monkeypatch.setattr(language, "_compiled_call_impl", len)
    with pytest.raises(KeyError), as_loaded(small_model.network):
        assert config._attn_implementation == "sdpa"
        assert language._compiled_call_impl is None
        raise KeyError
    assert (config._attn_implementation, language._compiled_call_impl) == ("ours", len)


def test_one_thread_returns_and_raises() -> None:
    with one_thread() as call:
        assert call(lambda: 2 + 2) == 4
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 / 0)
        assert call(lambda: "again") == "again"
