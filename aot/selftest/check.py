"""One check: its name, what it does, and how it came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Check", "CheckFailedError", "CheckResult", "CheckSkipped", "run"]


class Check(NamedTuple):
    """`work` returns what it found in a clause, or raises."""

    name: str
    work: Callable[[], str]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check came out; `detail` is one line."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    elapsed_ms: float


class CheckFailedError(Exception):
    """The check ran and found something wrong; the message says what was expected and what came."""


class CheckSkipped(Exception):  # noqa: N818 - an outcome, not an error
    """The check cannot be made on this machine; the message says why."""


def run(check: Check) -> CheckResult:
    """Run one check. Whatever it raises is a result: one broken part must not hide the others."""
    started = time.perf_counter()
    try:
        outcome, detail = "passed", check.work()
    except CheckSkipped as reason:
        outcome, detail = "skipped", str(reason)
    except CheckFailedError as problem:
        outcome, detail = "failed", str(problem)
    except Exception as error:  # a broken library raises whatever it likes
        outcome, detail = "failed", f"{type(error).__name__}: {error}"
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return CheckResult(check.name, outcome, " ".join(detail.split()), elapsed_ms)  # type: ignore[arg-type]
