"""What reuse between frames saves in the vision tower: LLaVA-OneVision's tower with random weights.

The full tower and `--tower stc` take turns on the same frames; ratios are of pairs within a round.

python docs/performance/reuse.py [ROUNDS] [FRAMES] [INTERVALS, for instance 2,4,8]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from statistics import median

import torch
from rich.progress import track

from aot.bench.synthetic import synthetic_model
from aot.compression.methods import build_method
from aot.config.schema import Config, ModelConfig
from aot.types import FrameReuse, VideoFrames, VideoInfo

ROUNDS, FRAMES = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((1, 3), (2, 8)))
INTERVALS = [int(part) for part in (sys.argv[3] if len(sys.argv) > 3 else "2,4,8").split(",")]
SHARE, NO_GATE = 0.25, 1.0


def main() -> None:
    model = synthetic_model("onevision-0.5b", ModelConfig())
    pixels = torch.randint(0, 256, (FRAMES, 3, 384, 384), dtype=torch.uint8)
    info = VideoInfo("noise", "mp4", "h264", 384, 384, 0, 0, 1, FRAMES, FRAMES, 0, 1, FRAMES, 1.0, False, False)
    frames = VideoFrames(pixels, tuple(map(float, range(FRAMES))), info)
    # The needs of `aot`: with the saliency of two blocks, as in a run.
    full = build_method(Config()).needs
    arms = {"full": full} | {
        f"interval {interval}": replace(full, reuse=FrameReuse(interval, SHARE, NO_GATE)) for interval in INTERVALS
    }
    wall_s: dict[str, list[float]] = {name: [] for name in arms}
    cpu_s: dict[str, list[float]] = {name: [] for name in arms}
    model.encode(replace(frames, pixels=pixels[:2], timestamps_s=(0.0, 1.0)), full)
    for _ in track(range(ROUNDS), "encoding"):
        for name, needs in arms.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            model.encode(frames, needs)
            wall_s[name].append(time.perf_counter() - start)
            cpu_s[name].append(time.process_time() - start_cpu)
    for name in arms:
        ratios = [median(a / b for a, b in zip(times["full"], times[name], strict=True)) for times in (wall_s, cpu_s)]
        print(
            f"{name}: {median(wall_s[name]) / FRAMES:.2f} s a frame, {ratios[0]:.2f} x; "
            f"processor {median(cpu_s[name]) / FRAMES:.2f} s a frame, {ratios[1]:.2f} x"
        )


if __name__ == "__main__":
    main()
