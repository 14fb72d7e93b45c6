"""Count what the host launches on a CUDA device, and how often it waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from aot.bench.operations import StageWork, StageWorks

__all__ = ["assign_launches", "counted_launches"]

# Calls of the CUDA runtime and driver that queue work; the names have suffixes of versions.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
_PREFIX = "aot stage "
_WAIT = "synchronizing CUDA operation"


class _ProfiledWorks(StageWorks):
    """Mark the stages in a profile, and note how many waits came before each."""

    def __init__(self, caught: list[warnings.WarningMessage]) -> None:
        self._caught, self._seen = caught, 0
        self._range: Any = None
        super().__init__()

    def begin(self, stage: str) -> None:
        """Count what follows for `stage`."""
        self.end()
        super().begin(stage)
        self._range = torch.profiler.record_function(_PREFIX + stage)
        self._range.__enter__()

    def end(self) -> None:
        """End the current stage."""
        if self._range is None:
            return
        self._range.__exit__(None, None, None)
        waits = sum(_WAIT in str(each.message) for each in self._caught[self._seen :])
        self._seen = len(self._caught)
        if waits:
            self.now.waits["wait"] += waits


@contextmanager
def counted_launches() -> Iterator[StageWorks]:
    """Yield the launches and waits of this thread in the `with` block, complete after the block.

    Launches are calls of the CUDA runtime in a profile; waits are warnings of torch's mode for
    debugging them. Both cost time, so measure times elsewhere.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught, torch.profiler.profile(activities=activities) as profile:
        warnings.simplefilter("always")
        works = _ProfiledWorks(caught)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield works
        finally:
            torch.cuda.set_sync_debug_mode(before)
            works.end()
    assign_launches(profile.events(), works.stages)


def assign_launches(events: Iterable[Any], stages: Mapping[str, StageWork]) -> None:
    """Add each launch in a profile's `events` to the stage during which the host called it."""
    events = list(events)
    ranges = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(_PREFIX))
        for event in events
        # The device has a range of the same name: when it ran what the host launched in the range.
        if event.name.startswith(_PREFIX) and event.device_type.name == "CPU"
    ]
    for event in events:
        if event.name.startswith(_LAUNCHES):
            at = event.time_range.start
            for start, end, stage in ranges:
                if start <= at <= end:
                    stages[stage].launches += 1
                    break
