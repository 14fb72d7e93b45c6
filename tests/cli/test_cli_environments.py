"""Every command under closed, full and broken streams, in containers, and with too little of everything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli_chosen_models import commands

from tests.support import environments
from tests.support.environments import (
    ENVIRONMENTS,
    LINES,
    MORE_LINES,
    Environment,
    Fork,
    Outcome,
    faults,
    make_files,
    run,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="environments are made with Linux's means")
BY_NAME = {environment.name: environment for environment in ENVIRONMENTS}
FORKED = [environment for environment in ENVIRONMENTS[1:] if environment.can_fork]
ASK = environments.REAL_LINES[0]


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    fork = Fork()
    yield fork
    fork.close()


@pytest.fixture
def folder(tmp_path: Path, clip_file: Path) -> Path:
    make_files(tmp_path / "run", clip_file)
    return tmp_path / "run"


def run_or_skip(line: tuple[str, ...], environment: Environment, folder: Path, fork: Fork | None = None) -> Outcome:
    try:
        return run(line, environment, folder, fork=fork)
    except PermissionError:
        pytest.skip("mounts cannot be made here")


def test_every_command_has_a_line() -> None:
    assert sorted(LINES) == sorted(commands())


@pytest.fixture(scope="module")
def usual(fork: Fork, clip_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Outcome]:
    folder = tmp_path_factory.mktemp("usual") / "run"
    make_files(folder, clip_file)
    return {line: run(line, BY_NAME["as usual"], folder, fork=fork) for line in [*LINES.values(), *MORE_LINES]}


def test_as_usual_each_line_says_something(usual: dict[tuple[str, ...], Outcome]) -> None:
    """And all exit codes that need no model are among them."""
    assert all(found.out or found.err for found in usual.values())
    assert {found.code for found in usual.values()} == {0, 1, 2, 3}


@pytest.mark.parametrize("environment", FORKED, ids=lambda each: each.name)
def test_lines_without_a_model(
    fork: Fork, folder: Path, usual: dict[tuple[str, ...], Outcome], environment: Environment
) -> None:
    for line in usual if environment.streams else LINES.values():
        found = run_or_skip(line, environment, folder, fork)
        assert not faults(line, environment, found, usual[line]), line


@pytest.mark.parametrize(
    ("name", "line", "code", "says"),
    [
        ("-OO", ("doctor",), 0, ""),
        ("ulimit -v", ("doctor",), 5, "aot: out of memory (torch needs"),
        ("ulimit -v", ASK, 5, "aot: out of memory (transformers needs"),
        ("no home", ASK, 0, ""),
    ],
)
def test_processes_of_their_own(folder: Path, name: str, line: tuple[str, ...], code: int, says: str) -> None:
    """What matters when libraries are imported."""
    found = run_or_skip(line, BY_NAME[name], folder)
    assert found.code == code, found.err
    assert found.err.startswith(says)
    assert not code or len(found.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["all closed", "both full", "no /proc", "little TMPDIR"])
def test_an_answer(fork: Fork, folder: Path, name: str) -> None:
    usual = run(ASK, BY_NAME["as usual"], folder, fork=fork)
    assert usual.code == 0 and usual.out
    assert not faults(ASK, BY_NAME[name], run_or_skip(ASK, BY_NAME[name], folder, fork), usual)


@pytest.mark.parametrize("name", ["stderr full", "stderr broken"])
def test_what_cannot_be_said_on_stderr_fails_nothing(fork: Fork, folder: Path, name: str) -> None:
    """`compress` writes a table there."""
    found = run(environments.REAL_LINES[2], BY_NAME[name], folder, fork=fork)
    assert (found.code, found.out) == (0, "clip.tokens.pt\n")
