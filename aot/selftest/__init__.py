"""Check this installation on this machine in seconds, without a network: `aot doctor --selftest`.

The checks answer the first questions of a bug report. Does every decoder return the right pictures?
Does the bundled model answer on every device in every dtype? Do the kernels agree with their torch
versions? Does every method keep the same tokens as on other machines?
"""

from __future__ import annotations

from collections.abc import Iterator

from aot.selftest.check import Check, CheckResult, run

__all__ = ["CheckResult", "run_selftest"]


def run_selftest() -> Iterator[CheckResult]:
    """Run every check and yield each result as soon as it is available."""
    from aot.selftest import answers, decoders, kept_tokens, kernels

    parts = (decoders.checks, answers.checks, kernels.checks, kept_tokens.checks)
    checks: Iterator[Check] = (check for part in parts for check in part())
    return map(run, checks)
