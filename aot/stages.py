"""How far a run is, how long its stages took and how much memory they needed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from aot.memory import peak_bytes

__all__ = ["StageClock", "StageProgress", "peak_bytes_on", "silent", "synchronize"]


class StageProgress(Protocol):
    """Told how far each stage is: "decode", "encode", "compress"."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class StageClock:
    """Times stages and remembers the peak memory of the device they run on. stage_ms: the sum for each name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stage_ms: dict[str, float] = defaultdict(float)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.stage_ms[name] += (time.perf_counter() - start) * 1e3

    def peak_bytes(self) -> dict[str, int | None]:
        return peak_bytes_on(self.device)


def peak_bytes_on(device: torch.device) -> dict[str, int | None]:
    """Return the most memory so far of the process ("host", None where the system does not say) and, of a CUDA device,
    of what it allocated ("device").
    """
    peaks = {"host": peak_bytes()}
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks
