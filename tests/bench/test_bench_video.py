"""The benchmark runs what the commands run, and its figures belong together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aot.bench import (
    SYNTHETIC,
    CompressorSize,
    VideoTimes,
    arms,
    rows,
    synthetic_model,
    time_compressor,
    time_video,
    video,
)
from aot.bench.decoded import DecodedVideo
from aot.bench.timing import Figure
from aot.config.schema import Config, GenerationConfig, ModelConfig, SamplingConfig
from aot.models.families.llava import Llava
from aot.models.language import answer
from aot.pipeline import replies
from aot.pipeline.chunk_compressor import ChunkCompressor
from tests.support.model_inputs import variant

CPU = torch.device("cpu")


CONFIG = Config(ratio=0.2, sampling=SamplingConfig(8), generation=GenerationConfig(max_new_tokens=4))


@pytest.fixture(scope="module")
def times(small_model: Llava, clip_file: Path) -> VideoTimes:
    return time_video(clip_file, small_model, CONFIG, "what happens?", rounds=3)


def test_three_arms_are_timed(times: VideoTimes) -> None:
    stock, plain, kept = times.arms
    assert [arm.name for arm in times.arms] == ["stock", "none", "aot"]
    assert (times.frames, times.visual_tokens, plain.kept_tokens, kept.kept_tokens) == (8, 200, 200, 40)
    assert plain.prompt_tokens - kept.prompt_tokens == 160
    assert stock.prompt_tokens == plain.prompt_tokens
    assert stock.output_tokens == plain.output_tokens == kept.output_tokens == 4
    assert times.decode_ms.least > 0
    for arm in times.arms:
        stages = {name: figure.median for name, figure in arm.figures.items()}
        assert all(figure.least <= figure.median <= figure.most for figure in arm.figures.values())
        assert 0 < stages["encode_ms"] < stages["first_token_ms"] < stages["answer_ms"]
        assert stages["prefill_ms"] > 0 and stages["tokens_per_s"] > 0
    assert stock.figures["compress_ms"].most == 0 < kept.figures["compress_ms"].least


def test_ratios_are_of_one_round_and_more_is_faster(times: VideoTimes) -> None:
    assert [(each.arm, each.against) for each in times.comparisons] == [
        ("none", "stock"), ("aot", "stock"), ("aot", "none"),
    ]  # fmt: skip
    slow, fast = (arms.Run.of(10.0, 0.0, 20.0, 20.0 + 3 * step_ms, tokens=4) for step_ms in (10.0, 5.0))
    assert video._faster("answer_ms", [fast, fast], [slow, slow]) == Figure(*[50 / 35] * 3)
    assert video._faster("tokens_per_s", [fast], [slow]).median == pytest.approx(2)


def test_work_is_counted_by_stage(times: VideoTimes) -> None:
    """The products of a tower and of a prompt, by hand; later tokens are three."""
    stock, plain, kept = ({each.stage: each for each in arm.counts} for arm in times.arms)
    assert list(stock) == ["encode", "prefill", "tokens"]
    assert list(plain) == list(kept) == ["encode", "compress", "prefill", "tokens"]
    assert stock["encode"].flops == plain["encode"].flops > 0
    assert stock["prefill"].flops == plain["prefill"].flops > 3 * kept["prefill"].flops > 0
    assert plain["encode"].launches is not None and stock["encode"].launches is not None
    assert plain["encode"].launches < stock["encode"].launches  # the tower keeps only the states it needs
    assert plain["compress"].waits == 0 < stock["tokens"].waits
    assert times.arms[0].achieved["encode_flops_per_s"] > 0
    assert times.ceilings.flops_per_s > 0 and times.ceilings.copy_bytes_per_s > 0


def test_the_arms_alternate(small_model: Llava, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for arm in (arms.OurArm, arms.StockArm):

        def recorded(self: Any, run: Any = arm.run) -> Any:
            order.append(self.name)
            return run(self)

        monkeypatch.setattr(arm, "run", recorded)
    time_video(clip_file, small_model, CONFIG, "what happens?", rounds=2)
    assert order == ["none", "aot", "stock", "stock", "none", "aot", "aot", "none", "stock"]


def test_a_stock_model_with_another_layout_is_left_out(small_model: Llava, clip_file: Path) -> None:
    notices: list[str] = []
    model = variant(small_model, newline="none")
    times = time_video(clip_file, model, CONFIG, "what happens?", rounds=1, on_notice=notices.append)
    assert [arm.name for arm in times.arms] == ["none", "aot"]
    assert "left out" in notices[0] and "LLaVA-OneVision" in notices[0]
    assert [(each.arm, each.against) for each in times.comparisons] == [("aot", "none")]


class SlowDevice:
    """A device that has work left until it is waited for: by `synchronize`, or for values of a tensor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy, self.waits = False, list[str]()
        tolist = torch.Tensor.tolist

        def fetched(values: torch.Tensor) -> Any:
            self.wait("fetch")
            return tolist(values)

        monkeypatch.setattr(torch.Tensor, "tolist", fetched)
        monkeypatch.setattr(arms, "synchronize", lambda device: self.wait("synchronize"))

    def wait(self, how: str) -> None:
        self.busy = False
        self.waits.append(how)


def test_no_clock_is_read_before_the_device_is_done(
    small_model: Llava, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every forward pass and every join of tensors leaves work behind."""
    frames = DecodedVideo.decode(clip_file, CONFIG.sampling, small_model)
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
    for module in (arms, answer, replies):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=read))
    run, _ = arms.OurArm(small_model, CONFIG, frames, "what happens?").run()
    # Start, asked twice (the device still compresses; both reads cancel), the first token, the text of
    # four, end twice.
    assert reads == [False, True, True, *[False] * 7]
    assert "fetch" in device.waits and run.prefill_ms > 0


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


def test_cells_are_short_enough_for_three_columns() -> None:
    assert rows.spread(Figure(0.3053, 0.3049, 12345.6)) == "0.31 (0.30-12346)"
    assert rows.spread(Figure(57.75, 9.999, 100.4)) == "57.8 (10.00-100)"
    assert rows.spread(Figure(0.0, 0.0, 0.0)) == ""
