"""Measure the compressor alone, on random features of any size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from aot.bench.phases import PHASES, TimedPhases
from aot.bench.timing import Figure, copy_bytes_per_second, elapsed_ms
from aot.compression.aot.method import AnchorTransport
from aot.compression.ops.grid import pooled_grid
from aot.config.schema import AnchorConfig, AOTConfig, InterConfig, IntraConfig, TransportConfig
from aot.runtime.peak_memory import peak_memory
from aot.runtime.stages import StageClock
from aot.types import Pooling, VisualTokens

__all__ = ["CompressorSize", "CompressorTimes", "time_compressor"]


@dataclass(frozen=True, slots=True)
class CompressorSize:
    """Size of the input (frames F, patches per side g, width D); anchors per frame M, and ratio."""

    frames: int = 32
    side: int = 27
    width: int = 3584
    anchors: int | None = 126
    ratio: float = 0.1


@dataclass(frozen=True, slots=True)
class CompressorTimes:
    """Hold the measurements of the compressor.

    Attributes:
        figures: times by name. total_ms: whole runs. phase_one_ms, phase_two_ms and rest_ms:
            separate runs that synchronize the device between the phases. torch_solver_ms: whole
            runs without the Triton kernel, only on CUDA.
        kept_tokens: number of kept tokens K.
        feature_bytes: size of the features.
        extra_host_bytes: peak additional main memory; only measured on the CPU.
        extra_device_bytes: peak additional device memory; only measured on CUDA.
        copy_bytes_per_s: bandwidth of a plain copy on the device.
        of_copy: feature_bytes / median total_ms, as a share of copy_bytes_per_s.
    """

    figures: Mapping[str, Figure]
    kept_tokens: int
    feature_bytes: int
    extra_host_bytes: int | None
    extra_device_bytes: int | None
    copy_bytes_per_s: float
    of_copy: float


def time_compressor(size: CompressorSize, device: torch.device, dtype: torch.dtype, rounds: int = 7) -> CompressorTimes:
    """Return times and memory of AOT's compression, from `rounds` runs after a warm-up."""
    # 1. Warm up both solvers, so that kernels are compiled and memory is allocated.
    visual = _random_tokens(size, device, dtype)
    budget = round(size.ratio * size.frames * math.prod(pooled_grid(visual.grid, visual.pool)))
    method = AnchorTransport(_settings(size), size.ratio)
    without_kernel = AnchorTransport(_settings(size, solver="torch"), size.ratio)
    for each in (method, without_kernel):
        each.compress(visual, budget)
    # 2. Measure memory in a separate run, because this measurement takes time.
    with peak_memory(device) as peak:
        kept = method.compress(visual, budget)
    # 3. Measure times. Variants are interleaved, so changes of clock speed or load affect all.
    runs: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        runs["total_ms"].append(elapsed_ms(lambda: method.compress(visual, budget), device))
        if device.type == "cuda":
            runs["torch_solver_ms"].append(elapsed_ms(lambda: without_kernel.compress(visual, budget), device))
        for name, value in _phases_ms(size, visual, budget).items():
            runs[name].append(value)
    figures = {name: Figure.of(values) for name, values in runs.items()}
    copy_rate = copy_bytes_per_second(device)
    return CompressorTimes(
        figures=figures,
        kept_tokens=len(kept.features),
        feature_bytes=visual.features.nbytes,
        extra_host_bytes=peak.host if device.type == "cpu" else None,
        extra_device_bytes=peak.device,
        copy_bytes_per_s=copy_rate,
        of_copy=visual.features.nbytes / (figures["total_ms"].median / 1e3) / copy_rate,
    )


def _settings(size: CompressorSize, solver: Literal["auto", "torch"] = "auto") -> AOTConfig:
    transport = TransportConfig(solver=solver)
    return AOTConfig(
        anchors=AnchorConfig(count=size.anchors),
        intra=IntraConfig(transport=transport),
        inter=InterConfig(transport=transport),
    )


def _phases_ms(size: CompressorSize, visual: VisualTokens, budget: int) -> dict[str, float]:
    """Return the times in ms of Phase I, Phase II and the rest of one run."""
    clock = StageClock(visual.features.device)
    timed = TimedPhases(_settings(size), size.ratio, clock)
    total = elapsed_ms(lambda: timed.compress(visual, budget), clock.device)
    phases = {f"{name}_ms": clock.stage_ms[name] for name in PHASES}
    return phases | {"rest_ms": total - sum(phases.values())}


def _random_tokens(size: CompressorSize, device: torch.device, dtype: torch.dtype) -> VisualTokens:
    """Return random features; frames have a common part and differ by noise, as in a video."""
    generator = torch.Generator(device).manual_seed(0)
    patches = size.side**2

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)

    features = torch.empty(size.frames, patches, size.width, device=device, dtype=dtype)
    features[:] = drawn(patches, size.width)
    for frame in features:
        frame += 0.5 * drawn(patches, size.width).to(dtype)
    saliency = {layer: drawn(size.frames, patches).abs() for layer in _layers()}
    times = tuple(map(float, range(size.frames)))
    return VisualTokens(features, (size.side, size.side), Pooling("bilinear"), times, saliency)


def _layers() -> tuple[int, int]:
    anchors = AnchorConfig()
    return anchors.shallow_layer, anchors.deep_layer
