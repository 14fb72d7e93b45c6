"""Figures from interleaved rounds, and what memory a stretch of work needed at its peak."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from aot.memory import held_bytes, peak_bytes
from aot.stages import synchronize

__all__ = ["Figure", "PeakMemory", "copy_bytes_per_second", "elapsed_ms", "peak_memory"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What several rounds measured."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(median(values), min(values), max(values))


@dataclass(slots=True)
class PeakMemory:
    """Bytes above what was held at the start. None where the system does not tell."""

    host: int | None = None
    device: int | None = None


def elapsed_ms(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, the device's part included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """The peak within the context, complete at its end."""
    peak = PeakMemory()
    held_host, held_device = _reset_host(), _reset_device(device)
    yield peak
    synchronize(device)
    if held_host is not None:
        peak.host = (peak_bytes() or 0) - held_host
    if held_device is not None:
        peak.device = torch.cuda.max_memory_allocated(device) - held_device


def copy_bytes_per_second(device: torch.device, size: int = 2**28, rounds: int = 5) -> float:
    """What a plain copy reaches, reading and writing counted."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best_ms = min(elapsed_ms(lambda: target.copy_(source), device) for _ in range(rounds + 1))
    return 2 * source.nbytes / best_ms * 1e3


def _reset_host() -> int | None:
    """Linux can forget a process's peak; the bytes held now, without what was freed but not given back."""
    if sys.platform != "linux":
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return held_bytes()
    except OSError:
        return None


def _reset_device(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
