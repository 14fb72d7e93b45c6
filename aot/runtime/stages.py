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
    """Receives the progress of each stage: "decode", "encode", "compress"."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` frames have passed `stage`."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class StageClock:
    """Times stages and remembers the peak memory of the device they run on.

    When a stage ends on CUDA, its work may only be queued. Events in the queue record when the
    device begins and ends each stage, so the host does not wait. A stage begins when the device
    has finished the work before it, so the times add up.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stage_ms: dict[str, float] = defaultdict(float)
        self._queued: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Return the time of each stage, 0 for others. Waits for the stages that are queued."""
        for name, begin, end in self._queued:
            end.synchronize()
            self._stage_ms[name] += begin.elapsed_time(end)
        self._queued.clear()
        return self._stage_ms

    def add(self, name: str, ms: float) -> None:
        """Add time that was measured elsewhere."""
        self._stage_ms[name] += ms

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within the context."""
        if self.device.type == "cuda":
            begin = self._event()
            yield
            self._queued.append((name, begin, self._event()))
            return
        start = time.perf_counter()
        yield
        # Work on a device is asynchronous; without waiting, the next stage would be charged for it.
        synchronize(self.device)
        self.add(name, (time.perf_counter() - start) * 1e3)

    def _event(self) -> torch.cuda.Event:
        """Return an event that notes when the device gets there."""
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def peak_bytes(self) -> dict[str, int | None]:
        """Return the peak memory so far, see `peak_bytes_on`."""
        return peak_bytes_on(self.device)


def peak_bytes_on(device: torch.device) -> dict[str, int | None]:
    """Return the peak memory so far.

    Key "host" has the process's main memory, or None if the system does not report it. On a CUDA
    device, key "device" has the memory allocated by torch.
    """
    peaks = {"host": peak_bytes()}
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks
