"""Runs the console script's own function, in this process so that torch loads once."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.cli_run import Aot, Run


@pytest.fixture
def run_aot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Aot:
    """run_aot(*arguments): exit code, stdout and stderr of the command, run in an empty folder."""
    (script,) = entry_points(group="console_scripts", name="aot")
    main = script.load()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("aot_cli.session.PROGRESS_EVERY_S", 1e6)  # a slow machine adds no lines

    def run(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["aot", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Run(int(left.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def small(small_folder: Path) -> tuple[str, ...]:
    """Arguments that make any command quick."""
    return ("--model", str(small_folder), "--frames", "8")
