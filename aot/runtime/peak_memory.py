"""What memory a stretch of work needs at its peak."""

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
    """Bytes above what was held at the start. None where the system does not say."""

    host: int | None = None
    device: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """The peak within the context, complete at its end."""
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
    """Make Linux forget the process's peak; return the bytes held now, without what was freed but not given back."""
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
