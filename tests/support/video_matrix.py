"""Reads video files of all kinds and compares every frame with FFmpeg's own decoding of the same file.

    python -m tests.support.video_matrix --files 500 --seed 1

Compared are how many frames there are, their order and how they lie, by the numbers that are drawn on them, and all
pixels with the `ffmpeg` program or, where there is none, with decoding by PyAV from the file's beginning. Prints a
line of figures; the exit code is 1 if a file differs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from aot.config.schema import SamplingConfig
from aot.errors import AOTError, VideoError
from aot.video import open_file, open_video
from tests.support import make_videos as make
from tests.support.matrix_files import (
    ASPECT_STATED,
    GUESSED,
    CannotBeMadeError,
    Kind,
    displayed_size,
    expected_numbers,
    kinds,
    write,
)

__all__ = ["ALLOWED", "BOUND", "Figures", "check", "compare_files"]

Pictures = NDArray[np.uint8]  # [F, H, W, 3]

# Of 255, the largest and the mean difference of a file: what versions of FFmpeg's scaler round differently.
BOUND = (4, 0.5)
# By codec or format, where the program is another FFmpeg than PyAV's or does not follow what the file states.
ALLOWED = {
    "dvvideo": (110, 0.3),  # chroma lies where DV's standard has it; the program takes it to lie as in MPEG-1
    "gray10le": (20, 1.5),  # FFmpeg 8 converts limited range by another formula than FFmpeg 5
}
# Where these have chroma unless they state it. The program's scaler has to be told, but for 8 bits, where it takes the
# nearest sample in any case.
CHROMA = {
    ("libx264", "yuv420p10le"): "in_h_chr_pos=0:in_v_chr_pos=128",
    ("libx264", "yuv422p10le"): "in_h_chr_pos=0",
    ("libx265", "yuv420p10le"): "in_h_chr_pos=0:in_v_chr_pos=128",
    ("libx265", "yuv420p12le"): "in_h_chr_pos=0:in_v_chr_pos=128",
}


@dataclass
class Figures:
    """What a run found. unmade: kinds that the encoders here refuse. differences: one line for each file."""

    files: int = 0
    frames: int = 0
    unmade: int = 0
    exact: int = 0
    allowed: int = 0
    most: int = 0
    most_mean: float = 0.0
    reference: str = ""
    differences: list[str] = field(default_factory=list)
    timings: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.files} files ({self.frames} frames) against {self.reference}: {len(self.differences)} differ; "
            f"pixels exact in {self.exact}, at most {self.most} of 255 apart, {self.most_mean:.2f} in the mean of a "
            f"file, {self.allowed} more as allowed; {self.unmade} kinds could not be made; "
            + ", ".join(f"{count} {timing}" for timing, count in sorted(self.timings.items()))
        )


def compare_files(count: int, seed: int, *, program: str | None) -> Figures:
    """Make `count` files and compare each; `program` is ffmpeg's path, None where there is none."""
    figures = Figures(reference="the ffmpeg program" if program else "PyAV from the beginning")
    with _silent():
        for kind in kinds(seed):
            if figures.files == count:
                return figures
            with tempfile.TemporaryDirectory() as folder:
                _compare(kind, Path(folder), figures, program)
    raise AssertionError("there are kinds without end")


def _compare(kind: Kind, folder: Path, figures: Figures, program: str | None) -> None:
    try:
        path = write(kind, folder)
    except CannotBeMadeError:
        figures.unmade += 1
        return
    figures.files += 1
    figures.timings[kind.timing] += 1
    try:
        ours, problems = check(path, kind)
        reference = _by_program(path, program, kind) if program else _from_beginning(path, kind)
        problems += _pixels(ours, reference, kind, figures)
        figures.frames += len(ours)
    except AOTError as error:
        problems = [f"refused: {error}"]
    if problems:
        figures.differences.append(f"{kind}: {'; '.join(problems)}")


def check(path: Path, kind: Kind) -> tuple[Pictures, list[str]]:
    """Return all frames as `aot` reads them and what is wrong with them, looking at what is drawn."""
    with open_file(path) as file:
        info = file.index.info
        count, problems = info.frames, []
        if kind.codec in ASPECT_STATED and (info.width, info.height) != displayed_size(kind):
            problems.append(f"is shown as {info.width} x {info.height}")
        ours, notices = _read(path, count)
        shown, expected = [make.read(picture) for picture in ours], expected_numbers(kind)
        if shown != expected:
            problems.append(f"shows {shown}, not {expected}")
        allowed = int(kind.timing == "joined" and kind.suffix not in ("h264", "hevc", "m2v")) + (count == 1)
        if len(notices) != allowed:
            problems.append(f"notices {notices}")
        few, _ = _read(path, min(3, count))
        if not np.array_equal(few, ours[[0, (count - 1) // 2, count - 1][: len(few)]]):
            problems.append("frames that are sought differ from those read in order")
    return ours, problems


def _read(path: Path, count: int) -> tuple[Pictures, tuple[str, ...]]:
    with open_video(path, SamplingConfig(frames=count)) as video:
        with video.pictures(video.plan.timestamps_s) as pictures:
            read = [rgb for _, rgb in pictures]
        if len({rgb.shape for rgb in read}) != 1:
            raise VideoError(f"{len(read)} frames of {len({rgb.shape for rgb in read})} sizes")
        return np.stack(read), video.plan.notices


def _pixels(ours: Pictures, theirs: Pictures, kind: Kind, figures: Figures) -> list[str]:
    if ours.shape != theirs.shape:
        return [f"{ours.shape}, FFmpeg has {theirs.shape}"]
    apart = np.abs(ours.astype(np.int16) - theirs)
    most, mean = int(apart.max()), float(apart.mean())
    allowed = ALLOWED.get(kind.codec) or ALLOWED.get(kind.pix_fmt)
    if allowed:
        figures.allowed += most > BOUND[0] or mean > BOUND[1]
    else:
        figures.exact += most == 0
        figures.most, figures.most_mean = max(figures.most, most), max(figures.most_mean, mean)
    most_allowed, mean_allowed = allowed or BOUND
    if most > most_allowed or mean > mean_allowed:
        return [f"pixels up to {most} apart, {mean:.2f} in the mean"]
    return []


def _by_program(path: Path, program: str, kind: Kind) -> Pictures:
    """Decode as a user of the ffmpeg program does, who gets the picture upright.

    But where chroma is interpolated, between rows in another way than between columns, it must not turn pictures first.
    """
    chroma = CHROMA.get((kind.codec, kind.pix_fmt))
    as_stored = kind.pix_fmt.startswith("yuv4") and kind.pix_fmt.endswith("le")
    before, scaler = ["-noautorotate"] * as_stored, ["-vf", f"scale={chroma}"] if chroma else []
    to_rgb = ["-map", "0:v:0", *scaler, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = [program, "-v", "error", *before, "-i", str(path), *to_rgb]
    pixels = np.frombuffer(subprocess.run(command, capture_output=True, check=False).stdout, np.uint8)
    width, height = kind.size
    if as_stored and kind.degrees % 180:
        width, height = height, width
    pictures = pixels[: len(pixels) // (3 * height * width) * 3 * height * width].reshape(-1, height, width, 3)
    return laid_down(pictures, kind) if as_stored else pictures


def laid_down(pictures: Pictures, kind: Kind) -> Pictures:
    """Follow the orientation that the kind's file states."""
    turned = np.rot90(pictures, -kind.degrees // 90, (1, 2))
    return turned[:, :, ::-1] if kind.mirrored else turned


def _from_beginning(path: Path, kind: Kind) -> Pictures:
    """Decode without seeking, and lay the pictures down as the kind says."""
    with av.open(str(path)) as container:
        frames = [_rgb(frame) for frame in container.decode(video=0)]
    return laid_down(np.stack(frames), kind)


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    frame.colorspace = GUESSED.get(frame.colorspace, frame.colorspace)
    return frame.to_ndarray(format="rgb24", interpolation="BICUBIC")


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what encoders print by themselves off the terminal."""
    av.logging.set_level(None)
    yield


def main() -> int:
    """Compare, print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-program", action="store_true", help="compare with PyAV even if ffmpeg is there")
    given = parser.parse_args()
    program = None if given.without_program else shutil.which("ffmpeg")
    figures = compare_files(given.files, given.seed, program=program)
    for line in figures.differences:
        print(line, file=sys.stderr)
    print(figures)
    return int(bool(figures.differences))


if __name__ == "__main__":
    sys.exit(main())
