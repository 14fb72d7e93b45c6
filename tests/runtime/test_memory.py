"""Systems that do not say how much memory a process holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from aot.runtime import memory
from aot.runtime.peak_memory import peak_memory
from aot.runtime.stages import StageClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

WITHOUT_PEAK = "Name:\taot\nVmSize:\t  400 kB\nVmRSS:\t  300 kB\n"


@pytest.fixture(params=["a sandbox without a peak", "no /proc"])
def silent_system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system says what is held now; it does not say the most."""
    status = tmp_path / "status"
    says_held = request.param == "a sandbox without a peak"
    if says_held:
        status.write_text(WITHOUT_PEAK)
    monkeypatch.setattr(memory, "_STATUS", status)
    return says_held


def test_what_the_system_says() -> None:
    peak, held = memory.peak_bytes(), memory.held_bytes()
    assert peak is not None and held is not None
    assert peak >= held > 1_000_000


def test_an_unknown_peak_is_none(silent_system: bool) -> None:
    assert memory.peak_bytes() is None
    assert memory.held_bytes() == (300 * 1024 if silent_system else None)
    assert StageClock(torch.device("cpu")).peak_bytes() == {"host": None}


@pytest.mark.usefixtures("silent_system")
def test_an_unknown_peak_of_a_stretch_of_work_is_none() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(10)
    assert peak.host is None
