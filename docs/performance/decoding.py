"""Time to decode sampled frames: every frame on the way, only what is needed, and keyframes.

python docs/performance/decoding.py [CLIP.mp4]

Three files: three minutes of 1080p (CLIP.mp4, made if it is missing, which takes minutes), ten seconds
of the drawn world, and an hour of small frames. Prints medians of interleaved rounds in one process:
seconds, and in parentheses seconds of all cores together.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import av
from hour import write_hour

from aot.config.schema import SamplingConfig
from aot.errors import AOTError
from aot.shapes.render import render
from aot.shapes.world import sample_scene
from aot.video import VideoFile, open_file, open_video
from aot.video.decode_pyav import PyavReader
from aot.video.decode_torchcodec import TorchcodecReader
from aot.video.picture import Picture
from aot.video.player import Player
from aot.video.source import open_container

ROUNDS = 3
ARMS = ("every frame on the way", "only what is needed", "`--seek keyframe`", "`--decoder torchcodec`")
TEXTURE = "mandelbrot=s=2560x1440:rate=1:maxiter=2000"
MOTION = (
    "crop=1920:1080:x='320+300*sin(t/3)':y='180+170*sin(t/2.1)',noise=alls=6:allf=t,format=yuv420p"  # pan and grain
)
X264 = "-c:v libx264 -preset veryfast -bf 3 -g 250 -keyint_min 25 -sc_threshold 0 -crf 27"


def write_long(path: Path) -> None:
    """Three minutes of 1080p at 30 frames a second: a texture that moves, with grain; GOP 250, B-frames."""
    ffmpeg = ("ffmpeg", "-v", "error", "-y")
    with tempfile.TemporaryDirectory() as folder:
        texture = Path(folder, "texture.png")
        still = ("-f", "lavfi", "-i", TEXTURE, "-frames:v", "1", "-vf", "noise=alls=30:allf=u")
        subprocess.run([*ffmpeg, *still, str(texture)], check=True)
        moving = ("-loop", "1", "-r", "30", "-i", str(texture), "-t", "180", "-vf", MOTION)
        subprocess.run([*ffmpeg, *moving, *X264.split(), str(path)], check=True)


def write_drawn(path: Path) -> None:
    """Ten seconds of the drawn world at 24 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 180, 180, "yuv420p"
        for picture in render(sample_scene(1), [k / 24 for k in range(240)], 180):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def positions(video: VideoFile, sampling: SamplingConfig) -> tuple[int, ...]:
    with open_video(video, sampling) as opened:
        return opened.plan.positions


def arms(video: VideoFile, frames: int) -> list[Callable[[], Iterable[Picture]]]:
    exact, index = positions(video, SamplingConfig(frames=frames)), video.index
    keyframes = positions(video, SamplingConfig(frames=frames, seek="keyframe"))

    def in_order() -> Iterator[Picture]:  # as before 2026-11-27
        with open_container(video.path, video.name) as container:
            yield from Player(container, index, unwanted=threading.Event()).in_order(exact, seeking=True)

    return [
        in_order,
        lambda: PyavReader(video.path, index, exact).pictures,
        lambda: PyavReader(video.path, index, keyframes).pictures,
        lambda: TorchcodecReader(video.path, index, exact).pictures,
    ]


def measure(pictures: Callable[[], Iterable[Picture]]) -> tuple[float, float] | None:
    """Return seconds and seconds of all cores; None if the decoder is missing or refuses the file."""
    wall, cores = time.perf_counter(), time.process_time()
    try:
        for _ in pictures():
            pass
    except AOTError:
        return None
    return time.perf_counter() - wall, time.process_time() - cores


def row(name: str, path: Path, frames: int) -> str:
    with open_file(path) as video:
        rounds = [[measure(arm) for arm in arms(video, frames)] for _ in range(ROUNDS)]
    cells = []
    for times in zip(*rounds, strict=True):
        found = [time for time in times if time is not None]
        cells.append("{:.2f} ({:.2f})".format(*map(median, zip(*found, strict=True))) if found else "-")
    return f"| {name}, {frames} frames | {' | '.join(cells)} |"


@contextmanager
def files(given: Path | None) -> Iterator[list[tuple[str, Path, int]]]:
    with tempfile.TemporaryDirectory() as folder:
        long, drawn, hour = given or Path(folder, "long.mp4"), Path(folder, "drawn.mp4"), Path(folder, "hour.mp4")
        if not long.exists():
            write_long(long)
        write_drawn(drawn)
        write_hour(hour)
        yield [
            ("3 minutes of 1080p", long, 32),
            ("10 s of the drawn world, 180p", drawn, 32),
            ("an hour of 180p", hour, 600),
        ]


def main() -> None:
    """Print the table of docs/performance.md."""
    print(f"| file | {' | '.join(ARMS)} |\n|---|{'---:|' * len(ARMS)}")
    with files(Path(sys.argv[1]) if sys.argv[1:] else None) as videos:
        for name, path, frames in videos:
            print(row(name, path, frames), flush=True)


if __name__ == "__main__":
    main()
