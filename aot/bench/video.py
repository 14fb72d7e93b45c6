"""Measure runs from video file to answer, with and without compression."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aot.bench.phases import PHASES, timed_method
from aot.bench.timing import Figure
from aot.config.schema import Config, InnerConfig, TowerConfig
from aot.models.base import VideoModel
from aot.pipeline.replies import write_reply
from aot.pipeline.run import Pipeline
from aot.runtime.peak_memory import PeakMemory, peak_memory
from aot.runtime.stages import StageClock, synchronize

__all__ = ["ArmTimes", "VideoTimes", "time_video"]


@dataclass(frozen=True, slots=True)
class _Run:
    """Times of one run from file to answer; decoding overlaps with encoding.

    `compress_ms` includes both phases of AOT. `first_token_ms` counts from the start of the run.
    """

    decode_ms: float
    encode_ms: float
    compress_ms: float
    phase_one_ms: float
    phase_two_ms: float
    prefill_ms: float
    first_token_ms: float
    tokens_per_s: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class _Counts:
    """Numbers of encoded frames, and of visual, kept, prompt and output tokens."""

    frames: int
    visual: int
    kept: int
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class ArmTimes:
    """Measurements of one method.

    Attributes:
        figures: times by name in milliseconds, and tokens_per_s.
        host_bytes, device_bytes: peak additional memory, maximum over rounds; None if unknown.
    """

    name: str
    prompt_tokens: int
    kept_tokens: int
    output_tokens: int
    figures: Mapping[str, Figure]
    host_bytes: int | None
    device_bytes: int | None


@dataclass(frozen=True, slots=True)
class VideoTimes:
    """Times without and with compression, in this order in `arms`.

    `speedup` has by name the ratio (time without compression) / (time with compression).
    """

    frames: int
    visual_tokens: int
    rounds: int
    arms: tuple[ArmTimes, ArmTimes]
    speedup: Mapping[str, Figure]


def time_video(clip: Path, model: VideoModel, config: Config, question: str, rounds: int = 5) -> VideoTimes:
    """Return times of `rounds` runs on `clip` with method none and with `config`, after a warm-up.

    Every answer has exactly `max_new_tokens` tokens, so that times are comparable.
    """
    words = replace(config.generation, min_new_tokens=config.generation.max_new_tokens)
    settings = (
        replace(config, method="none", inner=InnerConfig(), tower=TowerConfig(), generation=words),
        replace(config, generation=words),
    )
    # 1. Warm up, and count tokens; the counts are the same in all runs.
    counts = [_answer(clip, model, each, question)[1] for each in settings]
    # 2. Measure in alternating order, so that changes of clock speed or load affect both methods.
    runs: tuple[list[_Run], list[_Run]] = ([], [])
    peaks: tuple[list[PeakMemory], list[PeakMemory]] = ([], [])
    for number in range(rounds):
        for arm in (0, 1) if number % 2 == 0 else (1, 0):
            with peak_memory(torch.device(model.placement["device"])) as peak:
                run, _ = _answer(clip, model, settings[arm], question)
            runs[arm].append(run)
            peaks[arm].append(peak)
    plain, kept = (_arm(*each) for each in zip(settings, counts, runs, peaks, strict=True))
    return VideoTimes(
        frames=counts[0].frames,
        visual_tokens=counts[0].visual,
        rounds=rounds,
        arms=(plain, kept),
        speedup={
            name: Figure.of([getattr(a, name) / getattr(b, name) for a, b in zip(*runs, strict=True)])
            for name in ("encode_ms", "prefill_ms", "first_token_ms", "total_ms")
        },
    )


def _arm(config: Config, counts: _Counts, runs: Sequence[_Run], peaks: Sequence[PeakMemory]) -> ArmTimes:
    return ArmTimes(
        name=config.label,
        prompt_tokens=counts.prompt,
        kept_tokens=counts.kept,
        output_tokens=counts.output,
        figures={name: Figure.of([getattr(run, name) for run in runs]) for name in _Run.__slots__},
        host_bytes=_most([peak.host for peak in peaks]),
        device_bytes=_most([peak.device for peak in peaks]),
    )


def _now_s(device: torch.device) -> float:
    """Wait until the device is idle, then return the current time in seconds."""
    synchronize(device)
    return time.perf_counter()


def _answer(clip: Path, model: VideoModel, config: Config, question: str) -> tuple[_Run, _Counts]:
    """Answer `question` about the file `clip`; return the times and token counts of the run."""
    device = torch.device(model.placement["device"])
    start_s, clock = _now_s(device), StageClock(device)
    pipeline = Pipeline(model, config, lambda outer: timed_method(outer, clock))
    compressed = pipeline.compress(clip)
    report, asked_s = compressed.report, _now_s(device)
    reply = write_reply(lambda: pipeline.answer(compressed.tokens, question))
    before_ms, total_ms = (asked_s - start_s) * 1e3, (_now_s(device) - start_s) * 1e3
    prefill_ms = reply.answer_ms if reply.first_token_ms is None else reply.first_token_ms
    writing_ms = total_ms - before_ms - prefill_ms
    run = _Run(
        **{f"{name}_ms": ms for name, ms in report.stage_ms.items()},
        **{f"{name}_ms": clock.stage_ms[name] for name in PHASES},
        prefill_ms=prefill_ms,
        first_token_ms=before_ms + prefill_ms,
        tokens_per_s=(reply.output_tokens - 1) / writing_ms * 1e3 if reply.output_tokens > 1 else 0.0,
        total_ms=total_ms,
    )
    counts = _Counts(
        len(report.frames), report.visual_tokens, report.kept_tokens, reply.prompt_tokens, reply.output_tokens
    )
    return run, counts


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
