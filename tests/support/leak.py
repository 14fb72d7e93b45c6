"""Compressing, answering and inspecting in one process takes no more memory, files and threads with every round.

python -m tests.support.leak --rounds 1000
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.commands import Commands, set_streams, warm_up
from tests.support.make_videos import write
from tests.support.memory import held_bytes, open_files, threads

_FILES = {"a.mp4": "libx264", "b.mkv": "mpeg4", "c.ts": "mpeg2video", "d.webm": "libvpx"}
_WARM_UP = 0.5  # of the rounds, in which pools and caches fill
# safetensors 0.8 loses a small int per dimension of every tensor that it loads, 22 KiB for the three loads of a round.
_LEAST_BYTES, _BYTES_PER_ROUND = 16 * 2**20, 40 * 2**10


@dataclass(frozen=True)
class Sample:
    """What the process holds after a round."""

    held_bytes: int
    open_files: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.leak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="each compresses, asks twice and inspects twice")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aot-leak-") as scratch:
        warm_up(Path(scratch))
        samples, left = _samples(given.rounds, Path(scratch))
    steady = samples[int(_WARM_UP * len(samples)) :]
    slope = _slope([sample.held_bytes for sample in steady])
    allowed = max(_BYTES_PER_ROUND, _LEAST_BYTES / len(steady))
    files, thread_counts = ({getattr(sample, name) for sample in steady} for name in ("open_files", "threads"))
    leaks = slope > allowed or steady[-1].open_files > steady[0].open_files or left > 0
    leaks |= steady[-1].threads > max(sample.threads for sample in steady[: len(steady) // 2])
    print(
        f"leak: {given.rounds} rounds in {time.monotonic() - start:.0f} s: memory {slope / 1024:+.1f} KiB a round "
        f"({allowed / 1024:.0f} allowed; {steady[0].held_bytes / 1e6:.0f} MB after {len(samples) - len(steady)}, "
        f"{steady[-1].held_bytes / 1e6:.0f} MB at the end), {_range(files)} open files, {_range(thread_counts)} "
        f"threads, {left} temporary files left"
    )
    return int(leaks)


def _samples(rounds: int, scratch: Path) -> tuple[list[Sample], int]:
    """What is held after each round, and the number of temporary files in the end."""
    work, temporary = scratch / "work", scratch / "temporary"
    work.mkdir()
    temporary.mkdir()
    for name, codec in _FILES.items():
        write(work / name, 8, codec=codec, size=(48, 32))
    os.chdir(work)
    streams = [os.dup(number) for number in range(3)]
    commands, samples = Commands(), []
    tempfile.tempdir = str(temporary)
    for number in range(rounds):
        _round(commands, number)
        gc.collect()
        samples.append(Sample(held_bytes() or 0, open_files(), threads()))
        if number % 50 == 49:
            os.write(streams[2], f"leak: {number + 1} of {rounds} rounds, {samples[-1]}\n".encode())
    set_streams(*streams)
    os.chdir(scratch)
    tempfile.tempdir = None
    return samples, sum(1 for _ in temporary.iterdir()) + sum(1 for _ in work.glob(".aot-*"))


def _round(commands: Commands, number: int) -> None:
    """One video in one format, another with every round."""
    names = list(_FILES)
    clip, tokens = names[number % len(names)], ("a.pt", "a.safetensors")[number // len(names) % 2]
    shapes = ("--model", "shapes", "--frames", "4")
    method = ("aot", "standout", "uniform")[number % 3]
    lines = (
        ("compress", clip, "-o", tokens, "--force", "--method", method, *shapes), ("ask", tokens, "what?", *shapes[:2]),
        ("ask", clip, "what?", *shapes), ("inspect", tokens), ("inspect", clip),
    )  # fmt: skip
    for line in lines:
        run = commands.run(line)
        assert run.code == 0, run.err


def _slope(values: Sequence[int]) -> float:
    """Return the slope of values that come one a round: the median over all pairs (Theil-Sen).

    A few rounds that hold 10 MB more, as the allocator pleases, do not move it.
    """
    rounds = np.arange(len(values))
    first, second = np.triu_indices(len(values), 1)
    return float(np.median((np.take(values, second) - np.take(values, first)) / (rounds[second] - rounds[first])))


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"


if __name__ == "__main__":
    sys.exit(main())
