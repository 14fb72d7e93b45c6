"""The compressor alone, on random features of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aot.bench.timing import Figure, copy_bytes_per_second, elapsed_ms, peak_memory
from aot.config import AnchorConfig, AOTConfig
from aot.methods.aot import AnchorTransport
from aot.types import Pooling, VisualTokens

__all__ = ["CompressorSize", "CompressorTimes", "time_compressor"]


@dataclass(frozen=True, slots=True)
class CompressorSize:
    """frames F, patches per side g, width D, anchors per frame M, and the share of pooled tokens kept."""

    frames: int = 32
    side: int = 27
    width: int = 3584
    anchors: int | None = 126
    ratio: float = 0.1


@dataclass(frozen=True, slots=True)
class CompressorTimes:
    """total_ms is of whole runs, the phases' of others, in which the device is waited for between them.

    of_copy: the features' bytes once through in `total_ms.median`, as a share of what a plain copy reaches.
    """

    total_ms: Figure
    phase_one_ms: Figure
    phase_two_ms: Figure
    rest_ms: Figure
    kept_tokens: int
    feature_bytes: int
    extra_host_bytes: int | None
    extra_device_bytes: int | None
    copy_bytes_per_s: float
    of_copy: float


def time_compressor(size: CompressorSize, device: torch.device, dtype: torch.dtype, rounds: int = 7) -> CompressorTimes:
    """Both phases of AOT, `rounds` times after one to warm up."""
    visual = _random_tokens(size, device, dtype)
    settings = AOTConfig(anchors=AnchorConfig(count=size.anchors))
    budget = round(size.ratio * size.frames * ((size.side + 1) // 2) ** 2)
    method = AnchorTransport(settings, size.ratio)
    with peak_memory(device) as peak:
        kept = method.compress(visual, budget)
    whole, one, two, rest = [], [], [], []
    for _ in range(rounds):
        whole.append(elapsed_ms(lambda: method.compress(visual, budget), device))
        timed = _Timed(settings, size.ratio, device)
        total = elapsed_ms(lambda timed=timed: timed.compress(visual, budget), device)  # type: ignore[misc]
        one.append(timed.phase_ms["one"])
        two.append(timed.phase_ms["two"])
        rest.append(total - one[-1] - two[-1])
    copy_rate, bytes_read = copy_bytes_per_second(device), visual.features.nbytes
    return CompressorTimes(
        total_ms=Figure.of(whole),
        phase_one_ms=Figure.of(one),
        phase_two_ms=Figure.of(two),
        rest_ms=Figure.of(rest),
        kept_tokens=len(kept.features),
        feature_bytes=bytes_read,
        extra_host_bytes=peak.host if device.type == "cpu" else None,
        extra_device_bytes=peak.device,
        copy_bytes_per_s=copy_rate,
        of_copy=bytes_read / (Figure.of(whole).median / 1e3) / copy_rate,
    )


def _random_tokens(size: CompressorSize, device: torch.device, dtype: torch.dtype) -> VisualTokens:
    """Features that drift from frame to frame as a video's do."""
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


class _Timed(AnchorTransport):
    """Waits for the device after each phase, and remembers how long it took."""

    def __init__(self, config: AOTConfig, ratio: float, device: torch.device) -> None:
        super().__init__(config, ratio)
        self.device = device
        self.phase_ms: dict[str, float] = {}

    def phase_one(self, *arguments: Any) -> Any:
        return self._timed("one", super().phase_one, arguments)

    def phase_two(self, *arguments: Any) -> Any:
        return self._timed("two", super().phase_two, arguments)

    def _timed(self, phase: str, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        found: list[Any] = []
        self.phase_ms[phase] = elapsed_ms(lambda: found.append(run(*arguments)), self.device)
        return found[0]
