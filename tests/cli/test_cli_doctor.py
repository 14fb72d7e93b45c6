"""`aot doctor`: facts about the machine, and with --selftest the checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aot.selftest import CheckResult
from tests.support.cli_run import Aot


def outcomes(*names: str) -> list[CheckResult]:
    return [CheckResult(f"check {name}", name, "details", 12.5) for name in names]  # type: ignore[arg-type]


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def run() -> Iterator[CheckResult]:
        yield from outcomes(*names)

    monkeypatch.setattr("aot_cli.commands.doctor.run_selftest", run)


def test_facts_alone(run_aot: Aot) -> None:
    found = run_aot("doctor", "--json")
    assert found.code == 0
    assert {"versions", "devices", "decoders"} <= set(found.json)
    assert "selftest" not in found.json


def test_a_user_without_a_home(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in its list of users."""

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    found = run_aot("doctor", "--json")
    assert found.code == 0, found.err
    cache = found.json["model_cache"]
    assert cache["models"] == []
    assert "cannot be used (Could not determine home directory.); set HF_HOME" in cache["folder"]


def test_checks_follow_the_facts(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "passed", "skipped")
    found = run_aot("doctor", "--selftest")
    assert found.code == 0
    facts, _, checks = found.out.partition("passed   check passed: details (0.0 s)\n")
    assert "transformers" in facts
    assert checks == "skipped  check skipped: details (0.0 s)\n1 passed, 0 failed, 1 skipped in 0.0 s\n"


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_failed_check_is_exit_code_1(run_aot: Aot, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]) -> None:
    pretend(monkeypatch, "passed", "failed")
    found = run_aot("doctor", "--selftest", *flags)
    assert found.code == 1
    if flags:
        assert [check["outcome"] for check in found.json["selftest"]] == ["passed", "failed"]
        assert found.json["selftest"][1] == {
            "name": "check failed", "outcome": "failed", "detail": "details", "elapsed_ms": 12.5
        }  # fmt: skip
