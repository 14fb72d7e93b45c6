"""Commands on damaged videos, damaged tokens files and hostile settings, in processes that are watched.

Every case is drawn by a generator of its own, so its number and the seed are all it takes to run it again:

    python -m tests.support.fuzz --videos 300 --tokens 300 --settings 300 --seed 1
    python -m tests.support.fuzz --seed 1 --only videos:123
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; processes are forked from this one

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.commands import warm_up
from tests.support.fuzz_arena import CACHES, Arena
from tests.support.fuzz_case import Kind
from tests.support.fuzz_settings import SettingsCases
from tests.support.fuzz_tokens import TokensFiles
from tests.support.fuzz_videos import Videos
from tests.support.stand_in_hub import StandInHub, go_online, stand_in_hub
from tests.support.watchdog import Outcome, run_cases

LIMIT_S = 30.0
MOST_BYTES = 10**9  # beyond what a process with the model holds
_MOST_SHOWN = 400


@dataclass
class Tally:
    """The figures of one kind."""

    name: str
    seed: int
    cases: int = 0
    accepted: int = 0
    peak: tuple[int, int] = (0, 0)  # bytes, and the case
    slowest: tuple[float, int] = (0.0, 0)  # seconds, and the case
    defects: Counter[str] = field(default_factory=Counter)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def line(self) -> str:
        count, (peak_bytes, largest), (slowest_s, slowest) = self.defects, self.peak, self.slowest
        refused = self.cases - self.accepted - count["case"]
        return (
            f"{self.name}: seed {self.seed}, {self.cases} cases in {time.monotonic() - self.started_s:.0f} s: "
            f"{self.accepted} accepted, {refused} refused in a line, {count['internal error']} internal errors, "
            f"{count['unclear']} unclear, {count['hang']} hangs (slowest {slowest_s:.1f} s: {slowest}), "
            f"{count['crash']} crashes, peak {peak_bytes / 1e6:.0f} MB: {largest} ({count['memory']} too much), "
            f"{count['part file']} part files left, {count['other file']} other files touched, "
            f"{count['executed']} code executed, {count['request']} requests"
        )


def main() -> int:
    given = _parser().parse_args()
    kinds: dict[str, Kind] = {kind.name: kind for kind in (Videos(), TokensFiles(), SettingsCases())}
    numbers = {name: range(getattr(given, name)) for name in kinds}
    if given.only:
        only, _, number = given.only.partition(":")
        numbers = {only: range(int(number), int(number) + 1)}
    tallies = []
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # cases make and remove many small files
    with tempfile.TemporaryDirectory(prefix="aot-fuzz-", dir=in_memory) as scratch, _hub(Path(scratch)) as hub:
        warm_up(Path(scratch))
        for name, chosen in numbers.items():
            if chosen:
                folder, is_shown = Path(scratch, name), given.only is not None
                arena = Arena(kinds[name], given.seed, folder, hub.endpoint, given.keep, is_shown)
                tallies.append(_run(arena, chosen, given.limit_s, hub))
                print(tallies[-1].line, flush=True)
    return int(any(tally.defects for tally in tallies))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description=__doc__.split("\n\n")[0])
    for name, what in (("videos", "damaged videos"), ("tokens", "damaged tokens files"), ("settings", "settings")):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=f"so many cases of {what}")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is drawn")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case, with all it prints and its tracebacks")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --only: leave the case's files there")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds after which a case hangs")
    return parser


@contextmanager
def _hub(scratch: Path) -> Iterator[StandInHub]:
    """A hub that has no model, for this process and those forked from it, and folders for what libraries keep."""
    for name, folder in CACHES.items():
        Path(scratch, folder).mkdir()
        os.environ[name] = str(scratch / folder)
    sys.dont_write_bytecode = True
    with stand_in_hub() as hub, pytest.MonkeyPatch.context() as patch:
        go_online(patch, hub.endpoint, scratch / "hub")
        patch.setattr("aot_cli.session.PROGRESS_EVERY_S", 1e6)
        yield hub


def _run(arena: Arena, numbers: Sequence[int], limit_s: float, hub: StandInHub) -> Tally:
    arena.prepare()
    tally, shown = Tally(arena.kind.name, arena.seed), time.monotonic()
    for outcome in run_cases(numbers, arena.begin, limit_s):
        requests, hub.requests[:] = list(hub.requests), []
        defects = _defects(outcome, requests)
        _count(tally, outcome, defects)
        for kind, what in defects:
            if tally.defects.total() < _MOST_SHOWN:
                again = f"--seed {arena.seed} --only {arena.kind.name}:{outcome.number}"
                print(f"fuzz: {kind}: {what}; {again}", file=sys.stderr, flush=True)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"fuzz: {tally.line}", file=sys.stderr, flush=True)
    return tally


def _defects(outcome: Outcome, requests: Sequence[str]) -> list[tuple[str, str]]:
    if outcome.hung:
        return [("hang", outcome.stack)]
    if outcome.found is None:
        return [("crash", f"{outcome.stack} exit code {outcome.died_of}")]
    found = outcome.found
    defects = [(kind, f"{what} (aot {found['line']})") for kind, what in found["defects"]]
    if found["peak_bytes"] > MOST_BYTES:
        defects.append(("memory", f"{found['peak_bytes'] / 1e6:.0f} MB (aot {found['line']})"))
    if requests and not found["may_fetch"]:
        defects += [("request", f"{each} (aot {found['line']})") for each in requests]
    return defects


def _count(tally: Tally, outcome: Outcome, defects: Sequence[tuple[str, str]]) -> None:
    tally.cases += 1
    tally.defects.update({kind for kind, _ in defects})
    if defects:
        tally.defects["case"] += 1
    if outcome.found is not None:
        tally.accepted += outcome.found["code"] == 0 and not defects
        tally.peak = max(tally.peak, (outcome.found["peak_bytes"], outcome.number))
        tally.slowest = max(tally.slowest, (outcome.found["spent_s"], outcome.number))


if __name__ == "__main__":
    sys.exit(main())
