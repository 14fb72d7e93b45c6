"""Check that the bundled model answers three questions on every device in every dtype."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from aot.selftest.bundled import answered, compressed, devices, dtypes, scene
from aot.selftest.check import Check, CheckFailedError

__all__ = ["checks"]

_KINDS = ("change", "motion", "describe")


def checks() -> Iterator[Check]:
    """Yield one check per device and dtype."""
    for device in devices():
        for dtype in dtypes(device):
            yield Check(f"answer on {device} in {dtype}", partial(_answer, device, dtype))


def _answer(device: str, dtype: str) -> str:
    from aot.shapes.questions import questions

    asked = {qa.kind: qa for qa in questions(scene())}
    tokens = compressed(device, dtype)
    wrong = []
    for qa in (asked[kind] for kind in _KINDS):
        answer = answered(device, dtype, tokens, qa.question)
        if _words(answer) != _words(qa.answer):
            wrong.append(f"{qa.question!r} is answered {answer!r}, not {qa.answer!r}")
    if wrong:
        raise CheckFailedError("; ".join(wrong))
    return f"{len(_KINDS)} of {len(_KINDS)} right, from {len(tokens.features)} tokens"


def _words(text: str) -> list[str]:
    return text.replace(".", " ").split()
