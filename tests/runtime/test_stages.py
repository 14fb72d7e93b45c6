"""Stage times: their sum is what passed, and on CUDA measuring them makes nobody wait."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from aot.runtime.stages import StageClock


def test_times_of_one_name_add_up() -> None:
    clock = StageClock(torch.device("cpu"))
    begin = time.perf_counter()
    for _ in range(2):
        with clock.stage("encode"):
            time.sleep(0.01)
    clock.add("decode", 3.0)
    clock.add("decode", 4.0)
    passed_ms = (time.perf_counter() - begin) * 1e3
    assert 20 <= clock.stage_ms["encode"] <= passed_ms
    assert clock.stage_ms["decode"] == 7
    assert clock.stage_ms["compress"] == 0


class _Event:
    """Reached by the device every 5 ms, in order, and not before somebody waits for it."""

    recorded = 0
    waits = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        _Event.recorded += 1
        self.at_ms = 5.0 * _Event.recorded

    def synchronize(self) -> None:
        _Event.waits += 1

    def elapsed_time(self, end: _Event) -> float:
        return end.at_ms - self.at_ms


def test_stages_on_cuda_are_timed_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    for name in ("reset_peak_memory_stats", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    clock = StageClock(torch.device("cuda"))
    for name in ("encode", "compress", "encode"):
        with clock.stage(name):
            pass
    assert _Event.waits == 0
    for _ in range(2):  # read once, however often it is asked for
        assert dict(clock.stage_ms) == {"encode": 10.0, "compress": 5.0}
    assert _Event.waits == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_stages_on_a_gpu_add_up_to_what_passed() -> None:
    device = torch.device("cuda")
    values = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    clock, begin = StageClock(device), time.perf_counter()
    for name in ("encode", "compress"):
        with clock.stage(name):
            for _ in range(20):
                values = values @ values
    queued_ms = (time.perf_counter() - begin) * 1e3
    total_ms = sum(clock.stage_ms.values())
    passed_ms = (time.perf_counter() - begin) * 1e3
    assert queued_ms < total_ms <= passed_ms
    assert clock.stage_ms["encode"] == pytest.approx(clock.stage_ms["compress"], rel=0.5)
