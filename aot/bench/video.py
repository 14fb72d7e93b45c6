"""Compare three ways to answer about a video: stock transformers, all tokens, and kept tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aot.bench.arms import Arm, OurArm, Run, StockArm, TokenCounts
from aot.bench.ceilings import Ceilings, bytes_per_token
from aot.bench.decoded import DecodedVideo
from aot.bench.launches import counted_launches
from aot.bench.one_thread import one_thread
from aot.bench.operations import StageWork, counted_operations
from aot.bench.stock import StockModel
from aot.bench.timing import Figure
from aot.config.schema import Config
from aot.errors import MemoryLimitError, UnsupportedError
from aot.models.base import VideoModel
from aot.models.composed import ComposedModel
from aot.pipeline.run import Pipeline
from aot.runtime.peak_memory import PeakMemory, peak_memory

__all__ = ["STAGES", "ArmTimes", "Comparison", "StageCounts", "VideoTimes", "time_video"]

STAGES = ("encode", "compress", "prefill", "tokens")
_COMPARED = ("encode_ms", "prefill_ms", "first_token_ms", "tokens_per_s", "answer_ms")


@dataclass(frozen=True, slots=True)
class StageCounts:
    """The work of one stage of one run; "tokens" are all tokens after the first.

    Attributes:
        launches: kernels, copies and graphs that the host launches; without CUDA the operations of
            torch. None if they could not be counted.
        waits: how often the host waits for the device; without CUDA, how often it would.
        flops: floating-point operations of matrix products, convolutions and attention.
    """

    stage: str
    launches: int | None
    waits: int | None
    flops: int


@dataclass(frozen=True, slots=True)
class ArmTimes:
    """Measurements of one arm.

    Attributes:
        figures: times by name in milliseconds, and tokens_per_s.
        host_bytes, device_bytes: peak additional memory, maximum over rounds; None if unknown.
        counts: launches, waits and operations by stage.
        achieved: rates by name: floating-point operations per second of encode and prefill, and
            bytes of weights read per second of the tokens after the first.
    """

    name: str
    prompt_tokens: int
    kept_tokens: int
    output_tokens: int
    figures: Mapping[str, Figure]
    host_bytes: int | None
    device_bytes: int | None
    counts: tuple[StageCounts, ...]
    achieved: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times faster `arm` is than `against`, by figure, from pairs of one round."""

    arm: str
    against: str
    faster: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class VideoTimes:
    """The measurements of all arms: "stock" (may be left out), "none", and the method."""

    frames: int
    visual_tokens: int
    rounds: int
    decode_ms: Figure
    arms: tuple[ArmTimes, ...]
    comparisons: tuple[Comparison, ...]
    ceilings: Ceilings


def time_video(
    clip: Path,
    model: VideoModel,
    config: Config,
    question: str,
    rounds: int = 5,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> VideoTimes:
    """Return times of `rounds` answers about `clip` of each arm, after a warm-up.

    Every run starts with decoded frames, and every answer has exactly `max_new_tokens` tokens.
    `on_notice` receives sentences about what could not be measured.

    Raises:
        VideoError, MemoryLimitError: See `aot.errors`.
    """
    words = replace(config.generation, min_new_tokens=config.generation.max_new_tokens)
    config = replace(config, generation=words)
    device = torch.device(model.placement["device"])
    # 1. Warm up, and count tokens; the counts are the same in all runs.
    video = DecodedVideo.decode(clip, config.sampling, model)
    with one_thread() as call:
        arms = call(lambda: _warm_arms(video, model, config, question, on_notice))
        # 2. Measure in alternating order, so that changes of clock speed or load affect all arms.
        decode_ms, runs = list[float](), {arm.name: list[Run]() for arm, _ in arms}
        peaks = {arm.name: list[PeakMemory]() for arm, _ in arms}
        for number in range(rounds):
            decode_ms.append(DecodedVideo.decode(clip, config.sampling, model).decode_ms)
            for arm, _ in arms if number % 2 == 0 else reversed(arms):
                with peak_memory(device) as peak:
                    run, _ = call(arm.run)
                runs[arm.name].append(run)
                peaks[arm.name].append(peak)
    # 3. Count, in runs that are not measured.
    works = {arm.name: _counted(arm, device, on_notice) for arm, _ in arms}
    weights = bytes_per_token(model)
    return VideoTimes(
        frames=arms[0][1].frames,
        visual_tokens=arms[0][1].visual,
        rounds=rounds,
        decode_ms=Figure.of(decode_ms),
        arms=tuple(
            _arm_times(arm.name, counts, runs[arm.name], peaks[arm.name], works[arm.name], weights)
            for arm, counts in arms
        ),
        comparisons=_compared(runs),
        ceilings=Ceilings.measured(device, getattr(torch, model.placement["dtype"])),
    )


def _warm_arms(
    video: DecodedVideo, model: VideoModel, config: Config, question: str, on_notice: Callable[[str], None]
) -> list[tuple[Arm, TokenCounts]]:
    """Run each arm once; return those that can be compared with their counts of tokens."""
    # Settings of the model apply to both; those of compression do not apply to all tokens.
    everything = Config(method="none", sampling=config.sampling, model=config.model, generation=config.generation)
    ours: list[Arm] = [OurArm(model, each, video, question) for each in (everything, config)]
    arms = [(arm, arm.run()[1]) for arm in ours]
    assert isinstance(model, ComposedModel)
    tokens = Pipeline(model, everything).compress(video).tokens
    try:
        stock = StockModel(model, video.whole, model.prompt(tokens, question), config.generation)
        arm = StockArm(stock, arms[0][1].visual, arms[0][1].frames)
        return [(arm, arm.run()[1]), *arms]
    except (UnsupportedError, MemoryLimitError) as error:
        on_notice(f"stock transformers is left out of the comparison: {error}")
        return arms


def _counted(arm: Arm, device: torch.device, on_notice: Callable[[str], None]) -> tuple[StageCounts, ...]:
    """Return the work of each stage of `arm`."""
    with counted_operations() as works:
        arm.count(works)
    launched: Mapping[str, StageWork] | None = works.stages
    if device.type == "cuda":
        launched = _launched(arm, on_notice)
    return tuple(
        StageCounts(
            stage,
            launched[stage].launches if launched else None,
            launched[stage].waits.total() if launched else None,
            works.stages[stage].flops,
        )
        for stage in STAGES
        if stage in works.stages
    )


def _launched(arm: Arm, on_notice: Callable[[str], None]) -> Mapping[str, StageWork] | None:
    try:
        with counted_launches() as works:
            arm.count(works)
    except RuntimeError as error:
        on_notice(f"launches and waits of {arm.name} could not be counted: {error}")
        return None
    if any(work.launches for work in works.stages.values()):
        return works.stages
    on_notice(f"launches and waits of {arm.name} could not be counted: the profiler sees no CUDA calls")
    return None


def _arm_times(
    name: str,
    counts: TokenCounts,
    runs: Sequence[Run],
    peaks: Sequence[PeakMemory],
    works: tuple[StageCounts, ...],
    weights: int | None,
) -> ArmTimes:
    figures = {figure: Figure.of([getattr(run, figure) for run in runs]) for figure in Run.__slots__}
    flops = {work.stage: work.flops for work in works}
    achieved = {
        f"{stage}_flops_per_s": flops[stage] / figures[f"{stage}_ms"].median * 1e3 for stage in ("encode", "prefill")
    }
    if weights is not None:
        achieved["tokens_bytes_per_s"] = weights * figures["tokens_per_s"].median
    return ArmTimes(
        name=name,
        prompt_tokens=counts.prompt,
        kept_tokens=counts.kept,
        output_tokens=counts.output,
        figures=figures,
        host_bytes=_most([peak.host for peak in peaks]),
        device_bytes=_most([peak.device for peak in peaks]),
        counts=works,
        achieved=achieved,
    )


def _compared(runs: Mapping[str, Sequence[Run]]) -> tuple[Comparison, ...]:
    """Compare each arm with every arm before it."""
    names = list(runs)
    return tuple(
        Comparison(arm, against, {name: _faster(name, runs[arm], runs[against]) for name in _COMPARED})
        for number, arm in enumerate(names)
        for against in names[:number]
    )


def _faster(name: str, runs: Sequence[Run], others: Sequence[Run]) -> Figure:
    """Return how many times faster `runs` are: more tokens per second, or less time."""
    pairs = [(getattr(run, name), getattr(other, name)) for run, other in zip(runs, others, strict=True)]
    return Figure.of([_ratio(run, other) if name.endswith("_per_s") else _ratio(other, run) for run, other in pairs])


def _ratio(above: float, below: float) -> float:
    # A single token has no tokens after it.
    return above / below if below else 0.0


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
