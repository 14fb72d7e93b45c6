"""Commands that are killed at random instants leave the old file or the new one, whole, and nothing for the next run.

    python -m tests.support.kill --rounds 1000 --seed 1

Half of the instants are drawn evenly over the time that a command takes, half are at or soon after one at which it
opens, moves or removes a file.
Of four kills two are SIGKILL, one is SIGTERM and one SIGINT.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; processes are forked from this one

import argparse
import functools
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.support.commands import warm_up
from tests.support.forked import Forked, run_forked
from tests.support.make_videos import write

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_CODES = {
    signal.SIGKILL: (-signal.SIGKILL, 0),
    signal.SIGTERM: (143, -signal.SIGTERM, 0),
    signal.SIGINT: (130, -signal.SIGINT, 0),
}
_SAID = {signal.SIGTERM: "aot: terminated", signal.SIGINT: "aot: interrupted"}
_WHILE_WRITING_S = 0.003
_OLD = b"what was there before"
_SHAPES = ("--model", "shapes", "--frames", "4")

Check = Callable[[Path], object]


def _check_tokens(path: Path) -> None:
    from aot.storage.tokens_file import load_tokens

    load_tokens(path)


def _check_page(path: Path) -> None:
    assert path.read_text("utf-8").rstrip().endswith("</html>")


def _check_json(path: Path) -> None:
    json.loads(path.read_text("utf-8"))


def _check_rows(path: Path) -> None:
    assert path.read_text("utf-8").count("\n") == 5, "a header and four frames"


def _check_film(path: Path) -> None:
    from aot.video import probe

    assert probe(path).info.frames >= 4


@dataclass(frozen=True)
class Job:
    """A command that writes. outputs: its files, and what shows that one is whole. journal: the file of rows by which
    it is resumed, what identifies a row, and what must be equal after a kill.
    """

    arguments: tuple[str, ...]
    outputs: Mapping[str, Check]
    stdin: str = os.devnull
    journal: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None

    @property
    def resumes(self) -> bool:
        return self.journal is not None


JOBS = {
    "compress .pt": Job(
        ("compress", "clip.mp4", "-o", "a.pt", "--report", "a.json", "--html", "a.html", "--force", *_SHAPES),
        {"a.pt": _check_tokens, "a.json": _check_json, "a.html": _check_page},
    ),
    "compress .safetensors": Job(
        ("compress", "clip.mp4", "-o", "b.safetensors", "--report", "b.csv", "--force", *_SHAPES),
        {"b.safetensors": _check_tokens, "b.csv": _check_rows},
    ),
    "compress -": Job(("compress", "-", "-o", "c.pt", "--force", *_SHAPES), {"c.pt": _check_tokens}, stdin="clip.mp4"),
    "ask --html": Job(("ask", "clip.mp4", "what?", "--html", "d.html", "--force", *_SHAPES), {"d.html": _check_page}),
    "inspect --overlay": Job(
        ("inspect", "clip.mp4", "--overlay", "e.mp4", "--force", *_SHAPES), {"e.mp4": _check_film}
    ),
    "compare --html": Job(
        ("compare", "clip.mp4", "what?", "--methods", "uniform,standout", "--html", "f.html", "--force", *_SHAPES),
        {"f.html": _check_page},
    ),
    "eval": Job(
        ("eval", "data.jsonl", "-o", "results", "--methods", "none,uniform", "--ratios", "0.5", *_SHAPES),
        {"results/results.json": _check_json, "results/run.json": _check_json},
        journal=("results/answers.jsonl", ("condition", "item"), ("predicted", "kept_tokens")),
    ),
    "tune": Job(
        ("tune", "--questions", "data.jsonl", "-o", "tune", "--methods", "uniform", "-r", "0.5,0.1", *_SHAPES),
        {"tune/tune.json": _check_json, "tune/run.json": _check_json, "tune/tune.html": _check_page},
        journal=("tune/answers.jsonl", ("condition", "item"), ("predicted", "kept_tokens")),
    ),
    "batch": Job(
        ("batch", "list.jsonl", "-o", "batch", "--reports", *_SHAPES),
        {
            "batch/batch.json": _check_json,
            "batch/tokens/clip.mp4.safetensors": _check_tokens,
            "batch/reports/other.mp4.json": _check_json,
        },
        journal=("batch/results.jsonl", ("id", "question"), ("answer", "kept_tokens", "tokens_file", "error")),
    ),
    "demo": Job(
        ("demo", "-o", "demo", "--force"),
        {"demo/clip.mp4": _check_film, "demo/tokens.pt": _check_tokens, "demo/kept.html": _check_page},
    ),
}


@dataclass
class Tally:
    """The figures."""

    rounds: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.kill", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=len(JOBS) * 50, help="kills in all, of each command in turn")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the instants and signals")
    parser.add_argument("--only", metavar="COMMAND", choices=JOBS, help=f"one of {', '.join(JOBS)}")
    given = parser.parse_args()
    jobs = {given.only: JOBS[given.only]} if given.only else JOBS
    start, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory(prefix="aot-kill-") as scratch:
        os.environ["MPLCONFIGDIR"] = scratch
        warm_up(Path(scratch))
        _shorten_demo()
        arenas = [_Arena(name, job, Path(scratch, name)) for name, job in jobs.items()]
        for number in range(given.rounds):
            arena = arenas[number % len(arenas)]
            arena.round(Random(f"{given.seed}:{number}"), tally)
            for defect in tally.defects[len(tally.defects) - arena.found :]:
                print(f"kill: round {number}: {defect}", file=sys.stderr, flush=True)
            if number % 100 == 99:
                print(f"kill: {_line(tally, given.seed, start)}", file=sys.stderr, flush=True)
    print(_line(tally, given.seed, start))
    return int(bool(tally.defects))


def _shorten_demo() -> None:
    """Draw a smaller clip and ask one question of it, so that more of the instants are between its writes."""
    import aot.shapes.clips
    import aot_cli.commands.demo

    aot.shapes.clips.write_clip = functools.partial(aot.shapes.clips.write_clip, side=96, frames_per_second=2)
    aot_cli.commands.demo._KINDS = ("describe",)  # type: ignore[assignment]


def _line(tally: Tally, seed: int, start: float) -> str:
    ends = tally.ends
    return (
        f"kill: seed {seed}, {tally.rounds} kills in {time.monotonic() - start:.0f} s ({ends['SIGKILL']} SIGKILL, "
        f"{ends['SIGTERM']} SIGTERM, {ends['SIGINT']} SIGINT; {ends['finished']} came to their end before): "
        f"{ends['old']} files old, {ends['new']} new, {ends['absent']} not there yet; {ends['part files']} part files "
        f"left by SIGKILL, removed by the next run; {ends['resumed']} runs resumed; {len(tally.defects)} defects"
    )


class _Arena:
    """A folder in which one command is run and killed again and again."""

    def __init__(self, name: str, job: Job, scratch: Path) -> None:
        self.name, self.job, self.found = name, job, 0
        self._folder, self._logs, self._pristine = scratch / "work", scratch / "logs", scratch / "pristine"
        for folder in (self._logs, self._pristine):
            folder.mkdir(parents=True)
        write(self._pristine / "clip.mp4", 8, size=(48, 32))
        write(self._pristine / "other.mp4", 6, size=(48, 32), first=40)
        rows = [
            {"video": video, "question": f"how many {what}?", "answer": "two"}
            for video in ("clip.mp4", "other.mp4")
            for what in ("stars", "circles")
        ]
        (self._pristine / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        jobs = [
            {"video": video, "questions": ["how many stars?", "what moves?"]} for video in ("clip.mp4", "other.mp4")
        ]
        (self._pristine / "list.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
        self._begin_again(with_old=False)
        whole = self._run()
        assert whole.code == 0, whole.err
        self._seconds, self._events = whole.seconds, whole.file_events
        self._answers = self._journal() if job.resumes else {}

    def round(self, random: Random, tally: Tally) -> None:
        """Run the command, kill it, look at what is there, and let it run to its end where that tells something."""
        before = len(tally.defects)
        with_old = random.random() < 0.5
        self._begin_again(with_old=with_old)
        number, plots = random.choice(_SIGNALS), random.random() < 0.2
        if random.random() < 0.5:
            ended = self._run(number, after_s=random.uniform(0, 1.1 * self._seconds), plots=plots)
        else:
            event, delay_s = random.randint(1, self._events), random.choice((0.0, random.uniform(0, _WHILE_WRITING_S)))
            ended = self._run(number, at_file_event=event, delay_s=delay_s, plots=plots)
        tally.rounds += 1
        tally.ends[signal.Signals(number).name] += 1
        tally.ends["finished"] += ended.code == 0
        tally.defects += [f"{self.name}: {each}" for each in self._faults(ended, number, with_old, tally)]
        self.found = len(tally.defects) - before

    def _begin_again(self, *, with_old: bool) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._pristine, self._folder)
        for output in self.job.outputs if with_old else ():
            path = self._folder / output
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.job.resumes:
                path.write_bytes(_OLD)

    def _run(self, number: int = 0, *, plots: bool = False, **instant: Any) -> Forked:
        stdin, without = self._folder / self.job.stdin, "" if plots else "matplotlib.figure"  # most of eval's time
        return run_forked(
            self.job.arguments, self._folder, self._logs, stdin=stdin, signal_number=number, without=without, **instant
        )

    def _faults(self, ended: Forked, number: int, with_old: bool, tally: Tally) -> list[str]:
        faults = _faults_of_end(ended, number)
        for output, check in self.job.outputs.items():
            faults += self._fault_of_file(self._folder / output, check, tally, with_old)
        left = self._part_files()
        tally.ends["part files"] += len(left)
        if left and ended.code != -signal.SIGKILL:
            faults.append(f"exit code {ended.code} and {len(left)} part files")
        if left or self.job.resumes:
            again = self._run()
            if again.code:
                faults.append(f"the next run fails: {again.err[-300:]}")
            elif self.job.resumes:
                tally.ends["resumed"] += 1
                faults += ["what was resumed differs"] * (self._journal() != self._answers)
            faults += [f"{path.name} is still there after the next run" for path in self._part_files()]
        return faults

    def _fault_of_file(self, path: Path, check: Check, tally: Tally, with_old: bool) -> list[str]:
        if not path.exists():
            tally.ends["absent"] += 1
            return [f"{path.name} is gone"] * (with_old and not self.job.resumes)
        if path.read_bytes() == _OLD:
            tally.ends["old"] += 1
            return []
        tally.ends["new"] += 1
        try:
            check(path)
        except Exception as error:
            return [f"{path.name} is not whole: {error!r:.300}"]
        return []

    def _part_files(self) -> list[Path]:
        return list(self._folder.rglob(".aot-*.part"))

    def _journal(self) -> dict[str, object]:
        """What an evaluation or a batch has answered, without times."""
        assert self.job.journal
        file, keys, values = self.job.journal
        rows = [json.loads(line) for line in (self._folder / file).read_text("utf-8").splitlines()]
        answers = {":".join(row[key] for key in keys): [row[value] for value in values] for row in rows}
        assert len(answers) == len(rows), "a question was answered twice"
        return dict(answers)


def _faults_of_end(ended: Forked, number: int) -> list[str]:
    """Whether the process ended as the signal, or its own end, says, with one line at the most."""
    faults = []
    if ended.code not in _CODES[signal.Signals(number)]:
        faults.append(f"{signal.Signals(number).name} and exit code {ended.code}: {ended.err[-300:]}")
    elif "Traceback" in ended.err or "Exception ignored" in ended.err:
        faults.append(f"a traceback: {ended.err[-600:]}")
    elif ended.code > 0 and ended.err and not ended.err.rstrip().endswith(_SAID[signal.Signals(number)]):
        faults.append(f"another last line: {ended.err[-300:]}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
