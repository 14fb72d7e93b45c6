"""An hour of video against a minute of it: memory and time of `aot compress`, a process each.

python docs/performance/hour.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import av
from rich.progress import track

from aot.shapes.render import render
from aot.shapes.world import BEATS, sample_scene

FIRST_SEED = 14_000_000
SIDE = 180
FRAMES = (60, 600, 3600)
ROUNDS = 3


def write_hour(path: Path) -> None:
    """3,600 frames, one a second: 450 scenes, one after the other."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in track(range(FRAMES[-1] // BEATS), "drawing an hour"):
            for picture in render(sample_scene(FIRST_SEED + number), range(BEATS), SIDE):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def compress(clip: Path, frames: int) -> dict[str, Any]:
    """The report of one run, and how long the process took."""
    line = f"import sys; sys.argv = {_command(clip, frames)!r}\nfrom aot_cli.entry import main\nmain()"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"seconds": time.perf_counter() - start}


def _command(clip: Path, frames: int) -> list[str]:
    return [
        "aot", "compress", str(clip), "-o", f"{clip}.safetensors", "--force", "--json",
        "--model", "shapes", "--frames", str(frames), "--ratio", "0.1",
    ]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "hour.mp4"
        write_hour(clip)
        runs = {frames: [compress(clip, frames) for _ in range(ROUNDS)] for frames in FRAMES}
    print("| frames | tokens kept | decode s | encode s | compress s | process s | peak MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for frames, reports in runs.items():
        stages = [median(r["stage_ms"][name] for r in reports) / 1e3 for name in ("decode", "encode", "compress")]
        peak = max(r["peak_bytes"]["host"] for r in reports) / 1e6
        times = " | ".join(f"{value:.1f}" for value in (*stages, median(r["seconds"] for r in reports)))
        print(f"| {frames} | {reports[0]['kept_tokens']} | {times} | {peak:.0f} |")


if __name__ == "__main__":
    main()
