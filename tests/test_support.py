"""What watches over long tests sees what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.support.cli_run import Run
from tests.support.judge import faults
from tests.support.leak import _slope
from tests.support.mutations import mutated
from tests.support.watchdog import run_cases

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and measured as Linux does")


@ONLY_LINUX
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_case_that_hangs_or_crashes_is_known_by_its_number() -> None:
    def begin() -> Callable[[int], int]:
        def work(number: int) -> int:
            if number == 1:
                time.sleep(600)
            if number == 3:
                os.abort()
            if number == 5:
                raise ValueError("of the work itself")
            return number * 10

        return work

    outcomes = list(run_cases(range(7), begin, limit_s=1.0))
    assert [outcome.number for outcome in outcomes] == list(range(7))
    assert [outcome.found for outcome in outcomes] == [0, None, 20, None, 40, None, 60]
    assert [outcome.hung for outcome in outcomes] == [number == 1 for number in range(7)]
    assert "in work" in outcomes[1].stack and "of the work itself" in outcomes[5].stack
    assert outcomes[3].died_of < 0 < outcomes[5].died_of


@pytest.mark.parametrize(
    ("run", "arguments"),
    [
        (Run(9, "", "aot: wrong\n"), ()),
        (Run(1, "", "aot: internal error (KeyError: 'a'); run again with --debug for the traceback\n"), ()),
        (Run(1, "", "Traceback (most recent call last):\n  File\nKeyError\n"), ()),
        (Run(3, "", ""), ()),
        (Run(3, "", "aot: a\naot: b\n"), ()),
        (Run(3, "", "warning: a library\naot: a.mp4 is no video\n"), ()),
        (Run(3, "", "aot: \x1b[31m is no video\n"), ()),
        (Run(0, "a\u202eb\n", ""), ()),
        (Run(0, "{", ""), ("--json",)),
        (Run(0, '{"ratio": NaN}', ""), ("--json",)),
        (Run(3, '{"exit_code": 1}', "aot: a.mp4 is no video\n"), ("--json",)),
    ],
)
def test_a_bad_end_is_seen(run: Run, arguments: tuple[str, ...]) -> None:
    assert len(faults(run, arguments)) == 1 or run.err.startswith("Traceback")


@pytest.mark.parametrize(
    ("run", "arguments"),
    [
        (Run(0, "two\n", "aot: note: it is damaged\n"), ()),
        (Run(3, "", "aot: note: it is damaged\naot: 10 s: decode\naot: a.mp4 is no video\n"), ()),
        (Run(2, "", "Usage: aot ask [OPTIONS]\n\nError\nMissing argument\n"), ()),
        (Run(3, '{"exit_code": 3}', "aot: a.mp4 is no video\n"), ("--json",)),
    ],
)
def test_a_good_end_is_none(run: Run, arguments: tuple[str, ...]) -> None:
    assert faults(run, arguments) == []


WATCHED = """
import os, socket, subprocess, sys
from pathlib import Path
from tests.support.sentry import Sentry

inside, outside = map(Path, sys.argv[1:])
sentry = Sentry((inside,))
sentry.install()
(outside / "before").touch()
sentry.is_watching = True
(inside / "a").write_text("a")
(inside / "a").read_text()
(outside / "before").read_text()
assert not (sentry.changed or sentry.started or sentry.connected)
(outside / "b").write_text("b")
(inside / "a").rename(outside / "c")
(outside / "before").unlink()
subprocess.run(["true"])
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
print(len(sentry.changed), len(sentry.started), len(sentry.connected))
"""


@ONLY_LINUX
def test_the_sentry_sees_what_is_done_elsewhere(tmp_path: Path) -> None:
    folders = [tmp_path / "inside", tmp_path / "outside"]
    for folder in folders:
        folder.mkdir()
    root = Path(__file__).parents[1]
    line = [sys.executable, "-c", WATCHED, *folders]
    assert subprocess.run(line, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout == "3 1 1\n"


def test_a_case_is_known_by_its_number() -> None:
    data, others = bytes(range(256)) * 8, [b"moov" * 100, b"another"]
    drawn = [[mutated(Random(f"1:{number}"), data, others) for number in range(200)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 190


def test_the_slope_of_a_leak() -> None:
    assert _slope([5, 7, 9, 11]) == pytest.approx(2)
    assert _slope([5, 5, 90, 5, 5, 5, 90, 5, 5]) == 0
