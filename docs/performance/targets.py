"""Measure the parts of the target table of docs/performance-gpu.md, and print the table.

python docs/performance/targets.py FOLDER [--dry-run]

FOLDER has exact.json and perhaps reuse.json, which gpu.sh writes with `aot bench video --json`. A
dry run checks the script on a CPU with the bundled model; its figures mean nothing.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch

from aot.bench import synthetic_model
from aot.bench.decoded import DecodedVideo
from aot.bench.launches import counted_launches
from aot.bench.operations import StageWork, counted_operations
from aot.bench.timing import elapsed_ms
from aot.compression.methods import build_method
from aot.compression.ops.grid import pooled_grid
from aot.config.schema import Config, GenerationConfig, ModelConfig, SamplingConfig
from aot.errors import AOTError
from aot.pipeline.run import Pipeline
from aot.plugins import METHODS
from aot.reports.retention import versions
from aot.shapes.clips import encode_clip
from aot.shapes.world import sample_scene
from aot.types import Needs, TokenBudget

# Most milliseconds of a method: the authors' own code on an H200, or less; see docs/log.md.
LIMITS_MS = {"standout": 1.0, "vidcom2": 4.0, "fastvid": 5.8}
LIMIT_MS = 5.0
QUESTION = "what happens?"
_SLEEP_CYCLES = 100_000_000  # about 50 ms, longer than the host takes to launch the tower


@dataclass(frozen=True)
class Row:
    """A row of the table; `met` is None if nothing was measured."""

    title: str
    measured: str
    target: str
    met: bool | None


class Parts:
    """Measure parts of an answer with one model, alone and interleaved."""

    def __init__(self, dry: bool) -> None:
        size = ("shapes", "cpu", "float32", 4) if dry else ("onevision-7b", "cuda", "bfloat16", 32)
        name, device, dtype, frames = size
        self.device, self.rounds = torch.device(device), 1 if dry else 15
        self.model: Any = synthetic_model(name, ModelConfig(device=device, dtype=dtype))  # type: ignore[arg-type]
        words = GenerationConfig(max_new_tokens=32, min_new_tokens=32)
        self.config = Config(sampling=SamplingConfig(frames), generation=words)
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            encode_clip(sample_scene(184), clip)
            self.video = DecodedVideo.decode(clip, self.config.sampling, self.model)
        self.frames = self.video.whole

    def of_method(self, name: str, ratio: float) -> tuple[float, float | None, StageWork]:
        """Return the time of a method alone, the time that it adds behind the tower, and its work.

        Times are in milliseconds. Alone, the time includes launches; behind the tower, the device
        is busy while the host launches, as in an answer. It is None on a CPU.
        """
        method = build_method(Config(method=name, ratio=ratio))
        visual = self.model.encode(self.frames, method.needs)
        if method.needs.question:
            visual = replace(visual, question=self.model.embed_questions([QUESTION]))
        total = len(visual.timestamps_s) * math.prod(pooled_grid(visual.grid, visual.pool))
        budget = TokenBudget(round(ratio * total), ratio)

        @torch.no_grad()
        def run() -> None:
            method.compress(visual, budget)

        for _ in range(2):
            run()
        alone = median(elapsed_ms(run, self.device) for _ in range(self.rounds))
        return alone, self._behind_tower_ms(run, method.needs), self._work(run)

    def _behind_tower_ms(self, run: Callable[[], object], needs: Needs) -> float | None:
        if self.device.type == "cpu":
            return None
        found = []
        for _ in range(7):
            self.model.encode(self.frames, needs)
            found.append(self._events_ms(run))
        return median(found)

    def _work(self, run: Callable[[], object]) -> StageWork:
        with counted_launches() if self.device.type == "cuda" else counted_operations() as works:
            works.begin("all")
            run()
        return works.stages["all"]

    def saliency_share(self) -> float:
        """Return the device time that saliency adds to the tower, as a share; pairs in turns."""
        needs = build_method(self.config).needs
        shares = []
        for number in range(self.rounds + 1):
            without, recorded = (
                self._device_ms(partial(self.model.encode, self.frames, each)) for each in (Needs(), needs)
            )
            if number:  # the first pair warms up
                shares.append(recorded / without - 1)
        return median(shares)

    def _device_ms(self, run: Callable[[], object]) -> float:
        """Return the time of `run` on the device, which is kept busy while the host launches it."""
        if self.device.type == "cpu":
            return elapsed_ms(run, self.device)
        torch.cuda.synchronize()
        torch.cuda._sleep(_SLEEP_CYCLES)
        return self._events_ms(run)

    def _events_ms(self, run: Callable[[], object]) -> float:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        run()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended)

    def setup_ms(self) -> float:
        """Return by how much the second token takes longer than the later ones."""
        pipeline = Pipeline(self.model, self.config)
        tokens = pipeline.compress(self.video).tokens
        found = []
        for _ in range(4):
            at_s = []
            for _ in pipeline.answer(tokens, QUESTION).pieces():  # type: ignore[attr-defined]
                at_s.append(time.perf_counter())
            # The first piece comes when the first token is queued.
            first_s, second_s, last_s = at_s[1], at_s[2], at_s[32]
            found.append((second_s - first_s - (last_s - second_s) / 30) * 1e3)
        return median(found[1:])


def of_answers(exact: dict[str, Any], reuse: dict[str, Any] | None) -> Iterator[Row]:
    """Yield the rows that `aot bench video` measured."""
    yield first_token("first token after decoding, exact", exact, 70, 3.3)
    if reuse:
        yield first_token("first token after decoding, `--tower stc`", reuse, 45, 5)
    else:
        yield Row("first token after decoding, `--tower stc`", "no such option here", "<= 45 ms, >= 5 x", None)
    kept, answer = exact["arms"][-1], figure(exact, "answer_ms")
    yield Row("a whole 32-token answer after decoding", f"{answer:.0f} ms", "<= 350 ms", answer <= 350)
    peak = kept["device_bytes"]
    shown = "not known" if peak is None else f"{peak / 1e9:.2f} GB"
    yield Row("peak memory beyond the weights", shown, "<= 1.0 GB", None if peak is None else peak <= 1e9)


def figure(found: dict[str, Any], name: str) -> float:
    """Return the median of the compressed arm."""
    return float(found["arms"][-1]["figures"][name]["median"])


def first_token(title: str, found: dict[str, Any], most_ms: float, least: float) -> Row:
    """Return the row of a first token, with the median ratio to stock transformers."""
    faster = [each["faster"]["first_token_ms"] for each in found["comparisons"] if each["against"] == "stock"]
    ms, ratio = figure(found, "first_token_ms"), faster[-1]["median"]
    target = f"<= {most_ms} ms, >= {least} x stock"
    return Row(title, f"{ms:.1f} ms, {ratio:.2f} x stock", target, ms <= most_ms and ratio >= least)


def of_parts(parts: Parts, exact: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of the compressors, saliency and generation."""
    queued = figure(exact, "compress_ms")
    alone, _, work = parts.of_method("aot", parts.config.ratio)
    shown = f"{queued:.2f} ms after the tower ({alone:.2f} alone), {work.launches} launches"
    yield Row("compressor `aot`", shown, "<= 1 ms, <= 60 launches", queued <= 1 and work.launches <= 60)
    for name in METHODS:
        if name not in ("none", "aot"):
            # Two methods keep whole frames, which need more than a tenth of the tokens.
            yield of_method(parts, name, 0.25 if name in ("evs", "dycoke") else parts.config.ratio)
    share = parts.saliency_share()
    yield Row("saliency of two blocks, share of the tower", f"{share:.1%}", "<= 3 %", share <= 0.03)
    per_s, setup = figure(exact, "tokens_per_s"), parts.setup_ms()
    target = ">= 120, set-up <= 200 ms"
    met = per_s >= 120 and setup <= 200
    yield Row("tokens per second after the first", f"{per_s:.0f}, set-up {setup:.0f} ms", target, met)


def of_method(parts: Parts, name: str, ratio: float) -> Row:
    """Return the row of a compressor; a method that cannot run here has no figure."""
    limit = LIMITS_MS.get(name, LIMIT_MS)
    try:
        ms, behind_ms, work = parts.of_method(name, ratio)
    except AOTError as error:
        return Row(f"compressor `{name}`", f"refused: {error}", f"<= {limit} ms", None)
    measured_ms = ms if behind_ms is None else behind_ms
    alone = f"{ms:.2f} alone, " if behind_ms is not None else ""
    shown = f"{measured_ms:.2f} ms ({alone}{work.launches} launches, {work.waits.total()} waits)"
    return Row(f"compressor `{name}`, {ratio:.0%}", shown, f"<= {limit} ms", measured_ms <= limit)


def main(folder: Path, dry: bool) -> None:
    exact = json.loads((folder / "exact.json").read_text(encoding="utf-8"))
    found = folder / "reuse.json"
    reuse = json.loads(found.read_text(encoding="utf-8")) if found.exists() else None
    parts = Parts(dry)
    machine = torch.cuda.get_device_name() if not dry else "a CPU, a dry run: the figures mean nothing"
    libraries = ", ".join(f"{name} {versions().get(name)}" for name in ("torch", "transformers"))
    lines = [f"**Card**: {machine}; {libraries}; {time.strftime('%Y-%m-%d')}.", ""]
    lines += ["| | measured | target | |", "|---|---:|---:|---|"]
    print("\n".join(lines))
    for row in chain(of_answers(exact, reuse), of_parts(parts, exact)):
        lines.append(shown_row(row))
        print(lines[-1], flush=True)
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def shown_row(row: Row) -> str:
    """Return a row of a Markdown table."""
    met = {True: "met", False: "**missed**", None: "not measured"}[row.met]
    return f"| {row.title} | {row.measured} | {row.target} | {met} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--dry-run" in sys.argv)
