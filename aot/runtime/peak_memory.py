"""Measure the peak memory of a block of code."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from aot.runtime.memory import held_bytes, peak_bytes
from aot.runtime.stages import synchronize

__all__ = ["PeakMemory", "peak_memory"]


@dataclass(slots=True)
class PeakMemory:
    """Peak bytes of host and device minus the bytes held at the start, or None if not reported."""

    host: int | None = None
    device: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Yield an object that receives the peak memory of the `with` block when the block ends."""
    peak = PeakMemory()
    held_host, held_device = _reset_host(), _reset_device(device)
    yield peak
    synchronize(device)
    most_host = peak_bytes()
    if held_host is not None and most_host is not None:
        peak.host = most_host - held_host
    if held_device is not None:
        peak.device = torch.cuda.max_memory_allocated(device) - held_device


def _reset_host() -> int | None:
    """Reset the peak counter (Linux only); return the bytes held now, or None on failure."""
    if sys.platform != "linux":
        return None
    # Return freed memory to the system first; otherwise it would count as held.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only the GNU C library has it
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM
        return held_bytes()
    except OSError:
        return None


def _reset_device(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
