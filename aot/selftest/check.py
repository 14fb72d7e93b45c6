"""Run a check and record its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Check", "CheckFailedError", "CheckResult", "CheckSkipped", "run"]


class Check(NamedTuple):
    """A check; `work` returns the finding as text, or raises an exception if the check fails."""

    name: str
    work: Callable[[], str]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check; `detail` is the finding or the reason, in one line."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    elapsed_ms: float


class CheckFailedError(Exception):
    """Raised if a check finds a problem; the message has the expected and the actual value."""


class CheckSkipped(Exception):  # noqa: N818 - an outcome, not an error
    """Raised if a check is not possible on this machine; the message has the reason."""


def run(check: Check) -> CheckResult:
    """Run one check; any exception becomes a result, so that the next checks still run."""
    started = time.perf_counter()
    try:
        outcome, detail = "passed", check.work()
    except CheckSkipped as reason:
        outcome, detail = "skipped", str(reason)
    except CheckFailedError as problem:
        outcome, detail = "failed", str(problem)
    except Exception as error:  # a broken library can raise anything
        outcome, detail = "failed", f"{type(error).__name__}: {error}"
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return CheckResult(check.name, outcome, " ".join(detail.split()), elapsed_ms)  # type: ignore[arg-type]
