"""One model object serves many threads at once: each gets what it gets alone.

    python -m tests.support.overlap --threads 8 --rounds 500

In a round every thread compresses a clip and answers a question, all at the same time, with methods, ratios and
questions that are drawn.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aot.config.schema import Config
    from aot.models import VideoModel
    from aot.types import CompressedTokens

__all__ = ["asked"]

_QUESTIONS = ("what happens?", "how many things are there?", "what color is the circle?", "which way does it move?")
_RATIOS = (0.1, 0.25, 0.5)
_TOLERANCE = 1e-5


def asked(
    model: VideoModel, clip: Path, config: Config, question: str, *, leave: bool = False
) -> tuple[CompressedTokens, str]:
    """Return the tokens kept of a clip and the answer to a question; leave: only the answer's first piece."""
    from aot import Pipeline

    pipeline = Pipeline(model, config)
    tokens = pipeline.compress(clip).tokens
    reply = iter(pipeline.answer(tokens, question))
    text = next(reply, "") if leave else "".join(reply)
    reply.close()
    return tokens, text


@dataclass(frozen=True)
class Job:
    """What one thread does in a round."""

    clip: Path
    method: str
    ratio: float
    question: str
    temperature: float

    @property
    def config(self) -> Config:
        """The settings of a method, and of a reduction inside the language model after a plus."""
        from aot.config.schema import BUNDLED_MODEL, GenerationConfig, InnerConfig, build_config

        outer, _, inner = self.method.partition("+")
        generation = GenerationConfig(max_new_tokens=8, temperature=self.temperature, seed=3)
        sampling = {"frames": 4}
        base = build_config(
            {"model": {"name": BUNDLED_MODEL}, "method": outer, "ratio": self.ratio, "sampling": sampling}
        )
        return replace(base, inner=InnerConfig(inner or None), generation=generation)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.overlap", description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=8, metavar="N", help="that use the model at once")
    parser.add_argument("--rounds", type=int, default=24, metavar="N", help="overlaps of all threads")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what is drawn")
    given = parser.parse_args()
    start, random = time.monotonic(), Random(given.seed)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="aot-overlap-") as scratch:
        arena = _Arena(Path(scratch), given.threads)
        sys.setswitchinterval(1e-5)  # threads take over from each other far more often than usual
        for number in range(given.rounds):
            ends.update(arena.round(random))
            if number % 25 == 24:
                print(f"overlap: {number + 1} of {given.rounds} rounds, {dict(ends)}", file=sys.stderr, flush=True)
    wrong = ends.total() - ends["equal"] - ends["close"] - ends["left early"]
    print(
        f"overlap: seed {given.seed}, {given.rounds} overlaps of {given.threads} threads in "
        f"{time.monotonic() - start:.0f} s: {ends.total()} results, {ends['equal']} equal to those of one thread, "
        f"{ends['close']} within {_TOLERANCE:g}, {ends['left early']} left early, {ends['other tokens']} other tokens, "
        f"{ends['other answer']} other answers, {ends['error']} errors"
    )
    return int(wrong > 0)


class _Arena:
    """One model, a few clips, and what every job gives alone."""

    def __init__(self, scratch: Path, threads: int) -> None:
        from aot.config.schema import BUNDLED_MODEL, ModelConfig
        from aot.models import load_model
        from aot.shapes.clips import write_clip
        from aot.shapes.world import sample_scene

        self._clips = [scratch / f"{seed}.mp4" for seed in (125, 184, 40_000_000)]
        for clip in self._clips:
            write_clip(sample_scene(int(clip.stem)), clip, side=96, frames_per_second=2)
        self._model = load_model(ModelConfig(name=BUNDLED_MODEL, device="cpu"))
        self._threads, self._alone = threads, cache(self._result)

    def round(self, random: Random) -> list[str]:
        """Draw jobs, do each alone unless that was done before, then all at once; return how they ended."""
        jobs: list[Job] = []
        while len(jobs) < self._threads:
            job = self._job(random)
            if self._alone(job) is not None:
                jobs.append(job)
        leaving = [random.random() < 0.1 for _ in jobs]
        barrier = threading.Barrier(len(jobs))

        def work(job: Job, leave: bool) -> str:
            barrier.wait()
            return self._end(job, leave)

        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(work, jobs, leaving))

    def _job(self, random: Random) -> Job:
        from aot.plugins import usable

        methods = [*usable(), *(f"uniform+{inner}" for inner in usable("inner"))]
        temperature = random.choice((0.0, 0.0, 0.0, 1.0))
        return Job(
            random.choice(self._clips),
            random.choice(methods),
            random.choice(_RATIOS),
            random.choice(_QUESTIONS),
            temperature,
        )

    def _result(self, job: Job) -> tuple[CompressedTokens, str] | None:
        """What a job gives, None if its method refuses the ratio or the model."""
        from aot.errors import ConfigError

        try:
            return asked(self._model, job.clip, job.config, job.question)
        except ConfigError:
            return None

    def _end(self, job: Job, leave: bool) -> str:
        expected = self._alone(job)
        assert expected is not None
        try:
            tokens, text = asked(self._model, job.clip, job.config, job.question, leave=leave)
        except Exception as error:
            print(f"overlap: {job}: {error!r}", file=sys.stderr, flush=True)
            return "error"
        difference = _difference(tokens, expected[0])
        if difference > _TOLERANCE:
            print(f"overlap: {job}: tokens differ by {difference}", file=sys.stderr, flush=True)
            return "other tokens"
        if leave:
            return "left early" if expected[1].startswith(text) else "other answer"
        if text != expected[1]:
            print(f"overlap: {job}: {text!r} for {expected[1]!r}", file=sys.stderr, flush=True)
            return "other answer"
        return "close" if difference else "equal"


def _difference(tokens: CompressedTokens, expected: CompressedTokens) -> float:
    """The largest of all features; infinite where others were kept."""
    import torch

    if tokens.features.shape != expected.features.shape or not torch.equal(tokens.cell, expected.cell):
        return float("inf")
    return float((tokens.features - expected.features).abs().max())


if __name__ == "__main__":
    sys.exit(main())
