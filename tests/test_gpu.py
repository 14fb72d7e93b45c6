"""What a GPU gives, where there is one: the same budgets, and in 32 bits the tokens that the CPU keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aot.config import Config, ModelConfig, SamplingConfig
from aot.methods import build_method
from aot.models import load_model
from aot.models.base import VideoModel
from aot.models.llava import Llava
from aot.models.tower import hidden_states
from aot.pipeline import compress_video
from aot.types import VideoFrames, VideoInfo

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


def noise(model: Llava, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, *model.image_size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_nothing_waits_before_the_first_token(on_gpu: VideoModel, small_model: Llava) -> None:
    """Encoder, compressor and prompt."""
    assert isinstance(on_gpu, Llava)
    info = VideoInfo("noise", "mp4", "h264", 160, 120, 0, 0, 1, 8, 8, 0, 1, 8.0, 1.0, False, False)
    frames = VideoFrames(noise(small_model, 8), tuple(float(time) for time in range(8)), info)
    method = build_method(Config(ratio=0.25))

    def run() -> None:
        on_gpu.prompt(method.compress(on_gpu.encode(frames, method.needs), 50), "What moves?")

    run()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_the_tower_gives_the_stock_calls_states(on_gpu: VideoModel, small_model: Llava) -> None:
    assert isinstance(on_gpu, Llava)
    pixels = on_gpu.normalise(noise(small_model, 4))
    expected = on_gpu.tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(hidden_states(on_gpu.tower, pixels, [-1])[0], expected, rtol=1e-4, atol=1e-4)
