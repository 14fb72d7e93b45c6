"""What recording saliency adds to the vision tower: LLaVA-OneVision's tower with random weights, one frame.

The share is taken within one run: two runs of a tower differ by more on a busy machine than recording costs.

python docs/performance/saliency.py [ROUNDS]
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import torch
from rich.progress import track

from aot.bench.synthetic import synthetic_model
from aot.compression.methods import build_method
from aot.config.schema import Config, ModelConfig
from aot.models.vision import saliency
from aot.types import VideoFrames

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10


def main() -> None:
    model = synthetic_model("onevision-0.5b", ModelConfig())
    frames = VideoFrames(torch.randint(0, 256, (1, 3, 384, 384), dtype=torch.uint8), (0.0,), source=None)  # type: ignore[arg-type]
    needs = build_method(Config()).needs
    recording_s: list[float] = []

    def timed(*arguments: Any) -> torch.Tensor:
        start = time.perf_counter()
        result = received_attention(*arguments)
        recording_s.append(time.perf_counter() - start)
        return result

    received_attention, saliency.received_attention = saliency.received_attention, timed
    model.encode(frames, needs)
    recording_s.clear()
    start = time.perf_counter()
    for _ in track(range(ROUNDS), "encoding"):
        model.encode(frames, needs)
    whole_s = time.perf_counter() - start
    each_ms = 1000 * median(recording_s)
    print(f"{len(recording_s) // ROUNDS} blocks, {each_ms:.0f} ms each of {whole_s / ROUNDS:.2f} s a frame:", end=" ")
    print(f"{sum(recording_s) / whole_s:.1%}")


if __name__ == "__main__":
    main()
