"""AOT with a clock around each of its phases."""

from __future__ import annotations

from typing import Any

from aot.compression.aot.method import AnchorTransport
from aot.compression.methods import build_method
from aot.compression.methods.base import Method
from aot.config.schema import AOTConfig, Config
from aot.runtime.stages import StageClock, synchronize

__all__ = ["PHASES", "TimedPhases", "timed_method"]

PHASES = ("phase_one", "phase_two")


class TimedPhases(AnchorTransport):
    """Waits for the device before and after each phase; `clock` has their times."""

    def __init__(self, config: AOTConfig, ratio: float, clock: StageClock) -> None:
        super().__init__(config, ratio)
        self._clock = clock

    def phase_one(self, *arguments: Any) -> Any:
        """Run Phase I of AnchorTransport and record its time."""
        return self._timed("phase_one", super().phase_one, arguments)

    def phase_two(self, *arguments: Any) -> Any:
        """Run Phase II of AnchorTransport and record its time."""
        return self._timed("phase_two", super().phase_two, arguments)

    def queue_phase_one(self, *arguments: Any) -> None:
        """Queue Phase I of AnchorTransport on the device and record its time."""
        self._timed("phase_one", super().queue_phase_one, arguments)

    def queue_phase_two(self, *arguments: Any) -> None:
        """Queue Phase II of AnchorTransport on the device and record its time."""
        self._timed("phase_two", super().queue_phase_two, arguments)

    def _timed(self, name: str, run: Any, arguments: tuple[Any, ...]) -> Any:
        synchronize(self._clock.device)
        with self._clock.stage(name):
            return run(*arguments)


def timed_method(config: Config, clock: StageClock) -> Method:
    """Return the method of `config`; if it is AOT, its phases record times on `clock`."""
    made = build_method(config)
    return TimedPhases(made.config, made.ratio, clock) if isinstance(made, AnchorTransport) else made
