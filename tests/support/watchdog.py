"""Cases in processes forked from this one, a batch in each, so that one that hangs or crashes is known by number."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["Outcome", "in_fork", "run_cases"]

_BATCH = 250


@dataclass(frozen=True)
class Outcome:
    """What became of a case. found: what its work returned, None where it hung or its process died. died_of: how the
    process ended, a signal below zero. stack: where it was then, if Python could tell.
    """

    number: int
    found: Any = None
    hung: bool = False
    died_of: int = 0
    stack: str = ""


def run_cases(numbers: Sequence[int], begin: Callable[[], Callable[[int], Any]], limit_s: float) -> Iterator[Outcome]:
    """Yield what becomes of each case, in order. begin: called in each new process; returns the work of one case, whose
    result must be plain. limit_s: the most that one may take.
    """
    left = list(numbers)
    with TemporaryDirectory(prefix="aot-watchdog-") as folder:
        while left:
            for outcome in _batch(left[:_BATCH], begin, limit_s, Path(folder, "stack")):
                yield outcome
                left = left[1:]


def _batch(
    numbers: Sequence[int], begin: Callable[[], Callable[[int], Any]], limit_s: float, stack: Path
) -> Iterator[Outcome]:
    """The outcomes of a batch up to the first that hangs or crashes."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _work(numbers, begin, writer, stack)
    os.close(writer)
    lines = _lines(reader, limit_s)
    try:
        for number in numbers:
            line = next(lines, b"")
            if line is None:
                yield Outcome(number, hung=True, stack=_stack_of(process, stack))
                return
            if not line:
                _, status = os.waitpid(process, 0)
                process = 0
                said = stack.read_text() if stack.exists() else ""
                yield Outcome(number, died_of=os.waitstatus_to_exitcode(status), stack=said)
                return
            yield Outcome(number, json.loads(line))
    finally:
        os.close(reader)
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _work(numbers: Sequence[int], begin: Callable[[], Callable[[int], Any]], writer: int, stack: Path) -> None:
    """Do a batch and leave the process."""
    try:
        where = stack.open("w")
        faulthandler.enable(where)
        faulthandler.register(signal.SIGUSR1, file=where)
        work = begin()
        for number in numbers:
            os.write(writer, json.dumps(work(number)).encode() + b"\n")
        time.sleep(60)  # until it is ended: what Python and C do at their end is not part of a case
    except BaseException:
        stack.write_text(traceback.format_exc())
    finally:
        os._exit(99)


def _lines(reader: int, limit_s: float) -> Iterator[bytes | None]:
    """Whole lines as they come; None if one takes longer than the limit, nothing more at the end."""
    held = b""
    while True:
        if not select.select([reader], [], [], limit_s)[0]:
            yield None
            return
        piece = os.read(reader, 1 << 20)
        if not piece:
            return
        held += piece
        *whole, held = held.split(b"\n")
        yield from whole


def _stack_of(process: int, stack: Path) -> str:
    os.kill(process, signal.SIGUSR1)
    time.sleep(1)
    return stack.read_text() if stack.exists() else ""


def in_fork(work: Callable[[], object]) -> None:
    """Do something in a process of its own, so that it leaves no thread behind here, and wait for it.

    Raises:
        RuntimeError: it failed.
    """
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise RuntimeError("what all cases need could not be made; see above")
