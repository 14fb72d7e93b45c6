"""What a GPU gives, where there is one: the same budgets; in 32 bits the tokens and the words that the CPU gives."""

from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import aot.models.language.answer
from aot.compression.in_llm import divide
from aot.compression.methods import build_method, simplecluster
from aot.compression.ops import facility_location, farthest, kmeans
from aot.config.schema import Config, GenerationConfig, ModelConfig, SamplingConfig, build_config
from aot.models import load_model
from aot.models.base import VideoModel
from aot.models.families.llava import Llava
from aot.models.language.answer import read_lean
from aot.models.language.decoding import last_hidden_state
from aot.models.language.slots import slot_cache
from aot.models.vision.tower import hidden_states
from aot.plugins import INNER, METHODS
from aot.testing import Case, synthetic_video
from aot.types import Pooling, VideoFrames, VideoInfo, VisualTokens
from tests.support.compressed import compress_video
from tests.support.decoded import error_of_products, ids_of, steps_of, stock_ids
from tests.support.model_inputs import frames_for
from tests.support.syncs import moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
COMPARED = sorted({*METHODS} - {"aot-dyn", "floc", "simplecluster", "standout", "unified-stc", "vqtoken"})


@pytest.fixture(scope="module")
def on_gpu(small_folder: Path) -> VideoModel:
    return load_model(ModelConfig(name=str(small_folder), device="cuda", dtype="float32"))


@pytest.mark.parametrize("method", COMPARED)
def test_the_cpu_keeps_the_same(on_gpu: VideoModel, small_model: Llava, clip_file: Path, method: str) -> None:
    config = Config(ratio=0.25, method=method, sampling=SamplingConfig(8))
    asked = ["what happens?"]
    expected, found = (compress_video(clip_file, model, config, asked).tokens for model in (small_model, on_gpu))
    for field in ("frame", "row", "col", "role"):
        assert getattr(found, field).tolist() == getattr(expected, field).tolist()
    torch.testing.assert_close(found.features.cpu(), expected.features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    method, case = build_method(Config(ratio=0.35, method=name)), Case(13, (8, 6), Pooling("bilinear"), 0.35, dtype)
    found = {}
    for device in ("cpu", "cuda"):
        tokens = moved(synthetic_video(method.needs, case), device)
        features = tokens.features.requires_grad_()
        kept = method.compress(tokens, case.budget(case.ratio)).features
        (found[device],) = torch.autograd.grad(kept.float().square().sum(), features)
    assert found["cuda"].isfinite().all()
    assert found["cuda"].any()
    if name in COMPARED and dtype == torch.float32:
        torch.testing.assert_close(found["cuda"].cpu(), found["cpu"], rtol=1e-3, atol=1e-3)


def test_auto_is_the_gpu_and_answers(small_folder: Path, clip_file: Path) -> None:
    model = load_model(ModelConfig(name=str(small_folder)))
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    assert len(tokens.features) == 50
    assert tokens.features.is_cuda
    assert torch.isfinite(tokens.features).all()


# --- Writing


@pytest.fixture(scope="module")
def bundled_on_gpu() -> VideoModel:
    return load_model(ModelConfig(name="shapes", device="cuda", dtype="float32"))


OPTIONS = {
    "greedy": GenerationConfig(max_new_tokens=24, min_new_tokens=24),
    "drawn": GenerationConfig(max_new_tokens=24, min_new_tokens=24, temperature=1.3, seed=2),
}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 1.2e-2)])
def test_attention_by_products_has_scores_in_32_bits(dtype: torch.dtype, error: float) -> None:
    assert error_of_products(dtype, "cuda") < error


@pytest.mark.parametrize("options", OPTIONS)
def test_a_graph_writes_what_generate_does(bundled_on_gpu: Llava, clip_file: Path, options: str) -> None:
    model = bundled_on_gpu
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    answer = model.generate(tokens, "what happens ?", OPTIONS[options])
    with steps_of("graph") as steps:
        ids = list(answer._words())
    assert steps[0]._replay is not None  # type: ignore[attr-defined]
    assert not answer.notices
    assert ids == stock_ids(model, model.prompt(tokens, "what happens ?"), OPTIONS[options])
    assert ids == ids_of(answer, "lean") == ids_of(answer, "graph")


@pytest.mark.parametrize("name", INNER)
def test_a_graph_goes_on_after_reductions_inside(on_gpu: Llava, clip_file: Path, name: str) -> None:
    config = build_config({"ratio": 0.4, "method": "uniform", "inner": {"name": name}, "sampling": {"frames": 8}})
    tokens = compress_video(clip_file, on_gpu, config).tokens
    inner = divide(config, on_gpu.language_layers)[1]
    answer = on_gpu.generate(tokens, "What moves?", OPTIONS["greedy"], inner)
    assert ids_of(answer, "graph") == ids_of(answer, "lean")
    assert not answer.notices


def test_graphs_of_several_questions_and_of_long_answers(bundled_on_gpu: Llava, clip_file: Path) -> None:
    model = bundled_on_gpu
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    asked = ["what happens ?", "is there a red square ?", "what ?"]
    alone = ["".join(model.generate(tokens, each, OPTIONS["greedy"])) for each in asked]
    assert model.read(tokens).answers(asked, OPTIONS["greedy"]) == alone
    long = GenerationConfig(max_new_tokens=80, min_new_tokens=80)
    with patch.object(aot.models.language.answer, "MOST_ROOM", 16):
        assert ids_of(model.generate(tokens, asked[0], long), "graph") == ids_of(
            model.generate(tokens, asked[0], long), "lean"
        )


def test_what_cannot_be_captured_is_written_all_the_same(bundled_on_gpu: Llava, clip_file: Path) -> None:
    model = bundled_on_gpu
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    answer = model.generate(tokens, "what happens ?", OPTIONS["greedy"])
    expected = ids_of(answer, "lean")

    def waits(module: object, inputs: object, output: torch.Tensor) -> None:
        float(output.sum())

    hook = model.network.lm_head.register_forward_hook(waits)
    try:
        assert ids_of(answer, "graph") == expected
    finally:
        hook.remove()
    assert "without a CUDA graph" in answer.notices[0]
    assert torch.rand(2, device="cuda").isfinite().all()  # the failed capture has let go of the generator
    assert ids_of(answer, "graph") == expected and not answer.notices


def test_the_first_token_is_there_when_it_is_said_to_be(bundled_on_gpu: Llava, clip_file: Path) -> None:
    """All that it depends on has been done by then, however long the device takes."""
    model = bundled_on_gpu
    tokens = compress_video(clip_file, model, Config(ratio=0.25, sampling=SamplingConfig(8))).tokens
    answer = model.generate(tokens, "what happens ?", OPTIONS["greedy"])
    begun, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    torch.cuda._sleep(400_000_000)
    done.record()
    start = time.perf_counter()
    next(answer._words())
    assert answer.first_token_at is not None
    assert (answer.first_token_at - start) * 1e3 > 0.8 * begun.elapsed_time(done)


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


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_a_prompt_is_read_without_waiting_as_the_modules_read_it(dtype: str, error: float) -> None:
    model = load_model(ModelConfig(name="shapes", device="cuda", dtype=dtype))  # type: ignore[arg-type]
    assert isinstance(model, Llava)
    tokens = build_method(Config()).compress(model.encode(frames_for(model, 8), build_method(Config()).needs), 60)
    given = model.prompt(tokens, "what happens ?").language_inputs()

    def read() -> torch.Tensor:
        last = read_lean(model._writer, slot_cache(model.language.config, 4), **given)
        assert last is not None
        return last

    read()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = read()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = last_hidden_state(model.language, given["inputs_embeds"], slot_cache(model.language.config, 4))
    assert (found - expected).norm() <= error * expected.norm()


@pytest.mark.parametrize("name", COMPARED)
def test_methods_wait_for_nothing_and_keep_what_the_cpu_keeps(name: str) -> None:
    case = Case(16, (14, 14), Pooling("bilinear"), 0.3)
    method, budget = build_method(Config(method=name, ratio=case.ratio)), case.budget(case.ratio)
    tokens = synthetic_video(method.needs, case)
    expected, on_device = method.compress(tokens, budget), moved(tokens, "cuda")
    method.compress(on_device, budget)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = method.compress(on_device, budget)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.cell.tolist() == expected.cell.tolist()
    assert found.role.tolist() == expected.role.tolist()
    torch.testing.assert_close(found.mass.cpu(), expected.mass)
    torch.testing.assert_close(found.features.cpu(), expected.features, rtol=1e-4, atol=1e-4)
    assert list(found.clips) == list(expected.clips)


PICKERS = ("floc", "standout", "unified-stc", "simplecluster", "vqtoken")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PICKERS)
def test_pickers_wait_for_nothing_and_repeat(monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype) -> None:
    """Twice the same tokens; and most of those of the torch version, which rounds in another way."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 729, 256, generator=generator) + 0.5 * torch.randn(256, generator=generator)
    tokens = VisualTokens(
        features.to("cuda", dtype), (27, 27), Pooling("bilinear"), tuple(map(float, range(8))),
        {-1: torch.rand(8, 729, generator=generator).cuda()},
    )  # fmt: skip
    method = build_method(Config(method=name))
    method.compress(tokens, 156)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [method.compress(tokens, 156) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found[0].cell, found[1].cell)
    assert torch.equal(found[0].features, found[1].features)
    for module in (facility_location, farthest, kmeans, simplecluster):
        monkeypatch.setattr(module, "runs_triton", lambda device: False)
    expected = method.compress(tokens, 156)
    if name != "vqtoken":  # one other seed of k-means++ makes all later ones others
        same = {*found[0].cell.tolist()} & {*expected.cell.tolist()}
        assert len(same) >= 0.95 * 156


@torch.no_grad()
def test_the_tower_gives_the_stock_calls_states(on_gpu: VideoModel, small_model: Llava) -> None:
    assert isinstance(on_gpu, Llava)
    pixels = on_gpu.normalize(noise(small_model, 4))
    expected = on_gpu.tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(hidden_states(on_gpu.tower, pixels, [-1])[0], expected, rtol=1e-4, atol=1e-4)
