"""Checks of this installation on this machine, in seconds and without a network: `aot doctor --selftest`.

They answer what a bug report begins with: does every decoder show the right pictures, does the bundled model answer
on every device in every dtype, do the kernels agree with their torch versions, and does every method keep the tokens
that it keeps elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from aot.selftest.check import Check, CheckResult, run

__all__ = ["CheckResult", "run_selftest"]


def run_selftest() -> Iterator[CheckResult]:
    """Run every check; yield each result when it is there."""
    from aot.selftest import answers, decoders, kept_tokens, kernels

    parts = (decoders.checks, answers.checks, kernels.checks, kept_tokens.checks)
    checks: Iterator[Check] = (check for part in parts for check in part())
    return map(run, checks)
