"""Measure times, and summarize them over several rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from aot.runtime.stages import synchronize

__all__ = ["Figure", "copy_bytes_per_second", "elapsed_ms"]


@dataclass(frozen=True, slots=True)
class Figure:
    """Median, minimum and maximum of the values that several rounds measured."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Return the median, the minimum and the maximum of `values`."""
        return cls(median(values), min(values), max(values))


def elapsed_ms(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of `work()` in milliseconds, including queued work on `device`."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3


def copy_bytes_per_second(device: torch.device, size: int = 2**28, rounds: int = 5) -> float:
    """Return the bytes read and written per second by the fastest copy of `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best_ms = min(elapsed_ms(lambda: target.copy_(source), device) for _ in range(rounds + 1))
    return 2 * source.nbytes / best_ms * 1e3
