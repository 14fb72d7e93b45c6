"""What every command owes its user, whatever it is given: an exit code that is documented and one clear line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NoReturn

from tests.support.cli_run import Run

__all__ = ["faults"]

EXIT_CODES = (0, 1, 2, 3, 4, 5, 130, 143)
_NOTE = re.compile(r"aot: (note: |\d+ s: |\d+\.\d\d s: )")
_ORDER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def faults(run: Run, arguments: Sequence[str]) -> list[str]:
    """Return what is wrong with how a command ended, each in a line; nothing if all is well."""
    found = []
    if run.code not in EXIT_CODES:
        found.append(f"exit code {run.code} is not documented")
    if "internal error" in run.err:
        found.append("internal error: " + _line_with("internal error", run.err))
    if "Traceback (most recent call last)" in run.err and "--debug" not in arguments:
        found.append("traceback: " + run.err.strip().rpartition("\n")[2])
    found += [f"a terminal acts on {order!r}" for order in sorted({*_ORDER.findall(run.out), *_ORDER.findall(run.err)})]
    found += _clear_line(run) if run.code and "--debug" not in arguments else []
    found += _valid_json(run) if "--json" in arguments and run.out else []
    return found


def _clear_line(run: Run) -> list[str]:
    """A failure is explained in one line; a wrong command line in typer's box, after how to use the command."""
    lines = [line for line in run.err.splitlines() if line and not _NOTE.match(line)]
    if run.code == 2 and "".join((run.err or run.out).split()).startswith("Usage:"):  # in however narrow a terminal
        return []
    if len(lines) == 1 and lines[0].startswith("aot: "):
        return []
    return [f"exit code {run.code} with {len(lines)} lines for one: {' | '.join(lines)[:300]}"]


def _valid_json(run: Run) -> list[str]:
    try:
        found = json.loads(run.out, parse_constant=_refuse)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if run.code and found.get("exit_code") != run.code:
        return [f"JSON has no exit code {run.code}: {run.out[:200]}"]
    return []


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _line_with(text: str, lines: str) -> str:
    return next(line for line in lines.splitlines() if text in line)[:300]
