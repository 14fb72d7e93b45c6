"""Report the progress of a run, and measure the time and memory of its stages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch

from aot.runtime.memory import peak_bytes

__all__ = ["StageClock", "StageProgress", "peak_bytes_on", "silent", "synchronize"]


class StageProgress(Protocol):
    """Callback for the progress of the stages "select", "decode", "encode" and "compress"."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `stage` has processed `done` of `total` frames."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class StageClock:
    """Measure the time of stages and the peak memory of their device.

    On CUDA, a stage can end on the host while its work is still queued. Events in the queue record
    when the device begins and ends each stage, so the host does not wait. A stage begins when the
    device has finished all earlier work, so the times of stages do not overlap.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stage_ms: dict[str, float] = defaultdict(float)
        self._queued: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Wait for queued stages; return the time of each stage in ms (0 for unknown names)."""
        for name, begin, end in self._queued:
            end.synchronize()
            self._stage_ms[name] += begin.elapsed_time(end)
        self._queued.clear()
        return self._stage_ms

    def add(self, name: str, ms: float) -> None:
        """Add `ms`, measured by the caller, to the time of the stage `name`."""
        self._stage_ms[name] += ms

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the `with` block and add it to the stage `name`."""
        if self.device.type == "cuda":
            begin = self._event()
            yield
            self._queued.append((name, begin, self._event()))
            return
        start = time.perf_counter()
        yield
        # Work on a device is asynchronous; without a wait, its time would count for the next stage.
        synchronize(self.device)
        self.add(name, (time.perf_counter() - start) * 1e3)

    def _event(self) -> torch.cuda.Event:
        """Queue and return an event that records when the device reaches it."""
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def peak_bytes(self) -> dict[str, int | None]:
        """Return the peak memory so far in bytes, see `peak_bytes_on`."""
        return peak_bytes_on(self.device)


def peak_bytes_on(device: torch.device) -> dict[str, int | None]:
    """Return the peak memory so far in bytes.

    The key "host" has the host memory of the process, or None if the system does not report it. On
    a CUDA device, the key "device" has the memory that torch allocated.
    """
    peaks = {"host": peak_bytes()}
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks
