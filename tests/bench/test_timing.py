from __future__ import annotations

import sys
import time

import pytest
import torch

from aot.bench.timing import Figure, copy_bytes_per_second, elapsed_ms
from aot.runtime.peak_memory import peak_memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")


def test_a_figure_is_the_median_and_the_extremes() -> None:
    assert Figure.of([5.0, 1.0, 2.0]) == Figure(2.0, 1.0, 5.0)


def test_elapsed_is_in_milliseconds() -> None:
    assert 20 <= elapsed_ms(lambda: time.sleep(0.02), CPU) < 2000


@linux
def test_the_peak_is_what_was_held_at_once() -> None:
    size = 64 * 2**20
    with peak_memory(CPU) as peak:
        for _ in range(3):
            torch.ones(size // 4)  # one after the other
    assert peak.host is not None
    assert 0.9 * size < peak.host < 1.6 * size
    assert peak.device is None


@linux
def test_memory_freed_before_is_no_room() -> None:
    """An allocator that keeps freed pages must not hide what comes next."""
    torch.ones(16 * 2**20)
    with peak_memory(CPU) as peak:
        kept = torch.ones(16 * 2**20)
    assert peak.host is not None and peak.host > 0.9 * kept.nbytes


def test_a_copy_is_faster_than_a_floppy_disk() -> None:
    assert copy_bytes_per_second(CPU, size=2**22) > 1e6
