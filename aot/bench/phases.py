"""Measure the time of each phase of AOT."""

from __future__ import annotations

from typing import Any

from aot.compression.aot.method import AnchorTransport
from aot.config.schema import AOTConfig
from aot.runtime.stages import StageClock, synchronize

__all__ = ["PHASES", "TimedPhases"]

PHASES = ("phase_one", "phase_two")


class TimedPhases(AnchorTransport):
    """AOT that synchronizes the device before each phase and records phase times in `clock`."""

    def __init__(self, config: AOTConfig, ratio: float, clock: StageClock) -> None:
        super().__init__(config, ratio)
        self._clock = clock

    def phase_one(self, *arguments: Any) -> Any:
        """Run Phase I of AOT and record the time."""
        return self._timed("phase_one", super().phase_one, arguments)

    def phase_two(self, *arguments: Any) -> Any:
        """Run Phase II of AOT and record the time."""
        return self._timed("phase_two", super().phase_two, arguments)

    def queue_phase_one(self, *arguments: Any) -> None:
        """Queue Phase I of AOT on the device and record the time."""
        self._timed("phase_one", super().queue_phase_one, arguments)

    def queue_phase_two(self, *arguments: Any) -> None:
        """Queue Phase II of AOT on the device and record the time."""
        self._timed("phase_two", super().queue_phase_two, arguments)

    def _timed(self, name: str, run: Any, arguments: tuple[Any, ...]) -> Any:
        synchronize(self._clock.device)
        with self._clock.stage(name):
            return run(*arguments)
