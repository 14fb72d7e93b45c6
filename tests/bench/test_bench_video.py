"""The benchmark runs what the commands run, and its figures belong together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aot.bench import SYNTHETIC, CompressorSize, synthetic_model, time_compressor, time_video, video
from aot.bench.phases import TimedPhases, timed_method
from aot.bench.timing import Figure
from aot.compression.methods.attention import TopAttention
from aot.config.schema import AOT_METHODS, Config, GenerationConfig, ModelConfig, SamplingConfig
from aot.models.families.llava import Llava
from aot.models.language import answer
from aot.pipeline import replies
from aot.pipeline.chunk_compressor import ChunkCompressor
from aot.pipeline.run import Pipeline
from aot.runtime.stages import StageClock
from tests.support.compressed import compress_video

CPU = torch.device("cpu")


@pytest.fixture
def config() -> Config:
    return Config(ratio=0.2, sampling=SamplingConfig(8), generation=GenerationConfig(max_new_tokens=4))


def test_both_arms_are_timed_in_turns(small_model: Llava, clip_file: Path, config: Config) -> None:
    times = time_video(clip_file, small_model, config, "what happens?", rounds=3)
    plain, kept = times.arms
    assert (plain.name, kept.name) == ("none", "aot")
    assert (times.frames, times.visual_tokens, plain.kept_tokens, kept.kept_tokens) == (8, 200, 200, 40)
    assert plain.prompt_tokens - kept.prompt_tokens == 160
    assert plain.output_tokens == kept.output_tokens == 4
    for arm in times.arms:
        stages = {name: figure.median for name, figure in arm.figures.items()}
        assert all(figure.least <= figure.median <= figure.most for figure in arm.figures.values())
        assert stages["encode_ms"] + stages["compress_ms"] + stages["prefill_ms"] < 1.5 * stages["first_token_ms"]
        assert stages["first_token_ms"] < stages["total_ms"]
    phases = kept.figures["phase_one_ms"].median, kept.figures["phase_two_ms"].median
    assert 0 < sum(phases) < 1.5 * kept.figures["compress_ms"].median
    assert plain.figures["phase_one_ms"].most == 0


def test_the_arms_take_turns_and_ratios_are_of_one_round(
    small_model: Llava, clip_file: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    answer = video._answer

    def recorded(clip: Path, model: Llava, settings: Config, question: str) -> tuple[video._Run, video._Counts]:
        order.append(settings.method)
        run, counts = answer(clip, model, settings, question)
        total_ms = 100.0 * len(order) if settings.method == "none" else 10.0
        return replace(run, total_ms=total_ms), counts

    monkeypatch.setattr(video, "_answer", recorded)
    times = time_video(clip_file, small_model, config, "what happens?", rounds=3)
    assert order == ["none", "aot", "none", "aot", "aot", "none", "none", "aot"]
    assert times.speedup["total_ms"] == Figure(60.0, 30.0, 70.0)


class SlowDevice:
    """A device that has work left until it is waited for: by `synchronize`, or for values of a tensor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy, self.waits = False, list[str]()
        tolist = torch.Tensor.tolist

        def fetched(values: torch.Tensor) -> Any:
            self.wait("fetch")
            return tolist(values)

        monkeypatch.setattr(torch.Tensor, "tolist", fetched)
        monkeypatch.setattr(video, "synchronize", lambda device: self.wait("synchronize"))

    def wait(self, how: str) -> None:
        self.busy = False
        self.waits.append(how)


def test_no_clock_is_read_before_the_device_is_done(
    small_model: Llava, clip_file: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every forward pass and every join of tensors leaves work behind."""
    device, clock = SlowDevice(monkeypatch), time.perf_counter
    reads: list[bool] = []

    def read() -> float:
        reads.append(device.busy)
        return clock()

    def busy(function: Callable[..., Any]) -> Callable[..., Any]:
        def queue(*arguments: Any, **named: Any) -> Any:
            device.busy = True
            return function(*arguments, **named)

        return queue

    for part in (small_model.language, small_model.network.lm_head):
        monkeypatch.setattr(part, "forward", busy(part.forward))
    monkeypatch.setattr(ChunkCompressor, "tokens", busy(ChunkCompressor.tokens))
    monkeypatch.setattr(video, "time", SimpleNamespace(perf_counter=read))
    monkeypatch.setattr(answer, "time", SimpleNamespace(perf_counter=read))
    monkeypatch.setattr(replies, "time", SimpleNamespace(perf_counter=read))
    run, _ = video._answer(clip_file, small_model, config, "what happens?")
    assert reads == [False] * 10  # start, asked twice, the first token, the text of four, end twice
    assert "fetch" in device.waits and run.prefill_ms > 0


@pytest.mark.parametrize("name", AOT_METHODS)
def test_timed_phases_change_nothing(small_model: Llava, clip_file: Path, config: Config, name: str) -> None:
    config = replace(config, method=name)
    clock = StageClock(CPU)
    method = timed_method(config, clock)
    assert isinstance(method, TimedPhases)
    expected = compress_video(clip_file, small_model, config).tokens
    compressed = Pipeline(small_model, config, lambda outer: method).compress(clip_file)
    assert torch.equal(compressed.tokens.features, expected.features)
    assert compressed.report.stage_ms["compress"] >= clock.stage_ms["phase_one"] + clock.stage_ms["phase_two"] > 0


def test_a_method_without_phases_is_itself() -> None:
    assert isinstance(timed_method(Config(method="attention"), StageClock(CPU)), TopAttention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compressor_alone(dtype: torch.dtype) -> None:
    size = CompressorSize(frames=5, side=9, width=16, anchors=14, ratio=0.2)
    times = time_compressor(size, CPU, dtype, rounds=2)
    assert times.kept_tokens == round(0.2 * 5 * 25)
    assert times.feature_bytes == 5 * 81 * 16 * dtype.itemsize
    assert set(times.figures) == {"total_ms", "phase_one_ms", "phase_two_ms", "rest_ms"}
    assert times.of_copy > 0


def test_a_synthetic_model_has_the_published_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built on the meta device, which holds no numbers: seven billion of them have no room here."""
    from aot.bench import synthetic

    monkeypatch.setattr(synthetic, "pick_device", lambda name: torch.device("meta"))
    billions = {}
    for name in SYNTHETIC[1:]:
        model = synthetic_model(name, ModelConfig(dtype="bfloat16"))
        assert isinstance(model, Llava)
        assert (model.grid, model.tokens_per_frame, model.image_size) == ((27, 27), 196, (384, 384))
        assert model.placement["vision_blocks"] == 26
        billions[name] = sum(weights.numel() for weights in model.network.parameters()) / 1e9
    assert billions["onevision-7b"] == pytest.approx(8.03, abs=0.02)
    assert billions["onevision-0.5b"] == pytest.approx(0.89, abs=0.02)
