"""Where the cases of one kind run: an empty folder each, watched, and what they did there that they should not."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.support.commands import Commands
from tests.support.fuzz_case import Kind, Step
from tests.support.judge import faults
from tests.support.memory import forget_peak, held_bytes, peak_bytes
from tests.support.sentry import Sentry
from tests.support.watchdog import in_fork

__all__ = ["CACHES", "Arena"]

CACHES = {"MPLCONFIGDIR": "matplotlib", "HF_HOME": "hub"}  # variables of libraries, and folders for what they keep
_ADDRESS_SPACE = 8 * 2**30  # so that a case that goes wrong does not take the machine with it
_OUT_OF_MEMORY = 5


@dataclass
class Arena:
    """Where the cases of a kind run. hub: the stand-in's address. keep: where a case's files are left. is_shown: what
    commands print goes to stderr, with tracebacks.
    """

    kind: Kind
    seed: int
    folder: Path
    hub: str
    keep: Path | None = None
    is_shown: bool = False

    def prepare(self) -> None:
        """Make what all cases begin with."""
        corpus = self.folder / "corpus"
        corpus.mkdir(parents=True)
        in_fork(lambda: self.kind.make(corpus))
        self.kind.read(corpus)

    def begin(self) -> Callable[[int], dict[str, Any]]:
        """In a new process: get ready, and return the work of one case, which returns plain values about it."""
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        folder = self.folder / "case"
        sentry = Sentry((folder, *(Path(os.environ[name]) for name in CACHES)))
        sentry.install()
        terminal = os.dup(2) if self.is_shown else None
        commands, held = Commands(), held_bytes() or 0
        tempfile.tempdir = str(folder / "temporary")

        def work(number: int) -> dict[str, Any]:
            shutil.rmtree(folder, ignore_errors=True)
            for name in ("temporary", "canary"):
                (folder / name).mkdir(parents=True)
            os.chdir(folder)
            steps = self.kind.steps(Random(f"{self.seed}:{self.kind.name}:{number}"), folder, self.hub)
            case, start = _Case(folder, commands, sentry, terminal), time.monotonic()
            case.run(steps)
            if self.keep:
                shutil.copytree(folder, self.keep, dirs_exist_ok=True, symlinks=True)
            return {
                "code": case.code, "defects": case.defects, "peak_bytes": max(0, case.peak_bytes - held),
                "spent_s": time.monotonic() - start, "may_fetch": any(step.may_fetch for step in steps),
                "line": " && ".join(" ".join(step.arguments) for step in steps)[:400],
            }  # fmt: skip

        return work


@dataclass
class _Case:
    """One case while it runs. code: the last exit code that is not 0. defects: kind and description of each."""

    folder: Path
    commands: Commands
    sentry: Sentry
    terminal: int | None
    code: int = 0
    peak_bytes: int = 0
    defects: list[tuple[str, str]] = field(default_factory=list)

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if not (step.needs_success and self.code):
                self._step(step)
        self._note("executed", [path.name for path in (self.folder / "canary").iterdir()])
        temporary = [*self.folder.rglob(".aot-*.part"), *(self.folder / "temporary").iterdir()]
        self._note("part file", sorted({str(path) for path in temporary}))

    def _step(self, step: Step) -> None:
        before = {path: path.read_bytes() for path in step.inputs}
        debug = {} if self.terminal is None else {"AOT_DEBUG": "1"}
        self.sentry.clear()
        forget_peak()
        self.sentry.is_watching = True
        run = self.commands.run(step.arguments, {**step.environment, **debug}, step.stdin)
        self.sentry.is_watching = False
        self.peak_bytes, self.code = max(self.peak_bytes, peak_bytes() or 0), run.code or self.code
        if self.terminal is not None:
            os.write(self.terminal, _shown(step, run.code, run.out, run.err).encode("utf-8", "replace"))
        for fault in faults(run, (*step.arguments, *["--debug"] * bool(debug))):
            self._note("internal error" if fault.startswith("internal error") else "unclear", [fault])
        changed = [path for path, data in before.items() if not path.exists() or path.read_bytes() != data]
        self._note("other file", [*self.sentry.changed, *(f"{path} was an input, and changed" for path in changed)])
        self._note("executed", self.sentry.started)
        self._note("request", [] if step.may_fetch else self.sentry.connected)
        self._note("memory", ["exit code 5"] * (run.code == _OUT_OF_MEMORY))

    def _note(self, kind: str, found: Sequence[str]) -> None:
        self.defects += [(kind, each) for each in found]


def _shown(step: Step, code: int, out: str, err: str) -> str:
    variables = "".join(f"{name}={value!r} " for name, value in step.environment.items())
    return f"$ {variables}aot {step.arguments!r}\n{out[-4000:]}{err[-8000:]}exit code {code}\n"
