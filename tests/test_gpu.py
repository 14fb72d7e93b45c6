"""What a GPU gives, where there is one: the same budgets, and in 32 bits the tokens that the CPU keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aot.config import Config, ModelConfig, SamplingConfig
from aot.models import load_model
from aot.models.base import VideoModel
from aot.models.llava import Llava
from aot.pipeline import compress_video

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
METHODS = ("none", "uniform", "attention", "aot", "vidcom2")


@pytest.fixture(scope="module")
def on_gpu(small_folder: Path) -> VideoModel:
    return load_model(ModelConfig(name=str(small_folder), device="cuda", dtype="float32"))


@pytest.mark.parametrize("method", METHODS)
def test_the_cpu_keeps_the_same(on_gpu: VideoModel, small_model: Llava, clip_file: Path, method: str) -> None:
    config = Config(ratio=0.25, method=method, sampling=SamplingConfig(8))
    expected, found = (compress_video(clip_file, model, config).tokens for model in (small_model, on_gpu))
    for field in ("frame", "row", "col", "role"):
        assert getattr(found, field).tolist() == getattr(expected, field).tolist()
    torch.testing.assert_close(found.features.cpu(), expected.features, rtol=1e-3, atol=1e-3)


def test_auto_is_the_gpu_and_answers(small_folder: Path, clip_file: Path) -> None:
    model = load_model(ModelConfig(name=str(small_folder)))
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    assert len(tokens.features) == 50
    assert tokens.features.is_cuda
    assert torch.isfinite(tokens.features).all()
