"""Why tests were skipped, printed by every run; a run may fail for a reason that a list does not have.

The list keeps a skip from hiding a test that used to run: CI passes `--known-skips tests/known_skips.txt`.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--known-skips",
        type=Path,
        metavar="FILE",
        help="fail if a test is skipped for a reason that no line of FILE, a regular expression, matches",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and _unknown(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reasons, unknown = _reasons(config), _unknown(config)
    if reasons:
        terminalreporter.section(f"{reasons.total()} skipped")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:5}  {reason}")
    for reason in sorted(unknown):
        terminalreporter.write_line(f"UNKNOWN SKIP, not in {config.getoption('known_skips')}: {reason}", red=True)


def _reasons(config: pytest.Config) -> Counter[str]:
    """Count the skipped tests by reason; a module that is skipped whole counts as one. Empty in xdist's workers."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = [] if reporter is None or hasattr(config, "workerinput") else reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)


def _unknown(config: pytest.Config) -> set[str]:
    path = config.getoption("known_skips")
    if path is None:
        return set()
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    patterns = [re.compile(line) for line in lines if line and not line.startswith("#")]
    return {reason for reason in _reasons(config) if not any(pattern.fullmatch(reason) for pattern in patterns)}
