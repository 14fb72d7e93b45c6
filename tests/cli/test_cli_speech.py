"""How much a command says on stderr, and streams that are full, closed or read to a point."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from aot_cli.session import Session, begin, current
from tests.support.cli_run import Aot

AOT = Path(sys.executable).parent / "aot"


def test_quiet_says_nothing_but_errors(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    line = ("inspect", clip_file, "--clips", "dynamic", "--json")
    loud, quiet = run_aot(*line), run_aot(*line, "--quiet")
    assert loud.err and not quiet.err
    assert loud.json["notices"] == quiet.json["notices"] != []
    run = run_aot("compress", clip_file, "-o", "t.pt", *small, "--quiet")
    assert (run.code, run.out, run.err) == (0, "t.pt\n", "")
    assert run_aot("inspect", "nope.mp4", "--quiet").err.startswith("aot: nope.mp4 does not exist")


def test_verbose_tells_stages_and_decisions(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    line = ("ask", clip_file, "what?", "--ratio", "0.2", "--max-new-tokens", "2", *small)
    plain, told = run_aot(*line), run_aot(*line, "--verbose")
    assert plain.out == told.out
    assert not plain.err
    for part in ("load model: ", "device cpu", "8 of 24 frames", "encode: ", "kept 40 of 200 tokens", "2 written"):
        assert part in told.err
    assert not run_aot(*line).err  # it ends with the command


def test_quiet_and_verbose_contradict(run_aot: Aot) -> None:
    run = run_aot("methods", "--quiet", "--verbose")
    assert (run.code, run.err) == (2, "aot: --quiet and --verbose contradict each other; give one\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_long_work_without_a_terminal_shows_where_it_is(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aot_cli.session.PROGRESS_EVERY_S", 0.01)
    seen = ""
    with begin(Session(quiet=quiet)):
        current().stage = "encode, 3 of 9"
        until = time.monotonic() + (0.2 if quiet else 60)
        while "encode" not in seen and time.monotonic() < until:
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert ("aot: 0 s: encode, 3 of 9\n" in seen) is not quiet


def test_stages_are_known_to_the_session(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    from aot_cli.output.console import StageBars

    with begin(Session()), StageBars() as bars:
        bars("decode", 3, 8)
        assert current().stage == "decode, 3 of 8"
        with bars.stage("load model"):
            assert current().stage == "load model"


def test_warnings_of_libraries_are_notices(capsys: pytest.CaptureFixture[str]) -> None:
    """Those for programmers are in the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for session in (Session(), Session(verbose=True)):
            with begin(session):
                warnings.warn("slower kernels\ntake its place", stacklevel=1)
                warnings.warn("a name will change", FutureWarning, stacklevel=1)
            assert session.notices == ["slower kernels take its place"]
            lines = capsys.readouterr().err.splitlines()
            assert lines[0] == "aot: note: slower kernels take its place"
            assert len(lines) == 1 + session.verbose
    assert lines[1].endswith(" s: a name will change")


LINES = ("--version", "--help", "methods --help", "presets list", "presets show default --json", "doctor --json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("line", LINES)
def test_a_full_disk_is_one_line(line: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([AOT, *line.split()], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "aot: the output cannot be written: no space left on device\n"


@pytest.mark.parametrize("line", LINES)
def test_a_reader_that_leaves_is_no_error(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([AOT, *line.split()], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [(">&-", "", "aot: nope.mp4 does not"), ("2>&-", "", ""), ("<&- >&- 2>&-", "", "")],
)
def test_closed_streams(closed: str, out: str, err: str, tmp_path: Path) -> None:
    done = subprocess.run(
        f'"{AOT}" inspect nope.mp4 {closed}', shell=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 3
    assert done.stdout == out
    assert done.stderr[: len(err) or None] == err
