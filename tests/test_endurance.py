"""A minute of each test that is run for long now and then, with fixed seeds; docs/testing.md tells of their figures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and measured as Linux does"),
    pytest.mark.timeout(1800),
]


def figures(*words: str) -> str:
    """Run one of the tests; what it prints on stdout."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    return done.stdout


def test_damaged_files_and_hostile_settings_are_refused_in_a_line() -> None:
    said = figures("tests.support.fuzz", "--videos", "300", "--tokens", "300", "--settings", "300", "--seed", "17")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["videos", "tokens", "settings"]
    for line in said.splitlines():
        accepted, refused = (int(re.search(rf"(\d+) {word}", line)[1]) for word in ("accepted", "refused"))  # type: ignore[index]
        assert accepted + refused == 300 and min(accepted, refused) > 20


def test_a_kill_leaves_whole_files() -> None:
    said = figures("tests.support.kill", "--rounds", "450", "--seed", "17")
    assert re.search(r" 450 kills .* 135 runs resumed; 0 defects", said)


def test_nothing_leaks() -> None:
    assert " 40 rounds " in figures("tests.support.leak", "--rounds", "40")


def test_threads_get_what_one_thread_gets() -> None:
    said = figures("tests.support.overlap", "--threads", "8", "--rounds", "24", "--seed", "17")
    assert " 192 results" in said
