"""Damaged videos, through the commands that read videos."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from tests.support import make_videos
from tests.support.fuzz_case import Step
from tests.support.mutations import mutated

__all__ = ["Videos"]

SIZE = (48, 32)
FRAMES = 10
OPTIONS = {
    "mjpeg": {"strict": "unofficial"},
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}
# What FFmpeg encodes by name into which container; a short group of pictures, so that seeking has places to go.
FILES = {
    "h264.mp4": "libx264", "mpeg4.mov": "mpeg4", "hevc.mkv": "libx265", "vp8.webm": "libvpx", "vp9.webm": "libvpx-vp9",
    "av1.mp4": "libsvtav1", "mpeg4.avi": "mpeg4", "mjpeg.avi": "mjpeg", "mpeg2.ts": "mpeg2video",
    "mpeg1.mpg": "mpeg1video", "h264.ts": "libx264", "flv1.flv": "flv", "ffv1.mkv": "ffv1", "wmv2.wmv": "wmv2",
    "snow.nut": "snow", "h264.h264": "libx264", "vc2.mxf": "mpeg2video", "h264.3gp": "libx264", "raw.y4m": "rawvideo",
    "utvideo.avi": "utvideo", "mpeg4.mkv": "mpeg4",
}  # fmt: skip
METHODS = ("uniform", "uniform", "frames", "aot", "standout", "none")
NAMES = (
    "a [b].mp4", "[b].mp4", "no-ending", "wrong.mkv", "p%d.png", "*.jpg", "a\nb.mp4", "\x1b]0;x\x07.mp4",
    "\u202e4pm.mp4", "\udcff.mp4", "x" * 250, "concat:a.mp4", "data:,a", "e\u0301.ts", "a.txt", "a.pt.mp4", " .mp4",
    "$HOME.mp4",
)  # fmt: skip
RANGES = (
    "--start=0",
    "--start=0.2",
    "--end=0.1",
    "--end=1e9",
    "--fps=7",
    "--fps=1000",
    "--spacing=time",
    "--seek=keyframe",
    "--strict",
)


@dataclass
class Videos:
    """Files of several containers and codecs, each of a few small pictures."""

    name: str = "videos"
    files: dict[str, bytes] = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        """Write the undamaged files."""
        os.environ["SVT_LOG"] = "0"  # how the AV1 encoder is kept quiet
        for name, codec in FILES.items():
            size = (64, 64) if codec == "libx265" else SIZE  # it crashes on smaller pictures
            make_videos.write(
                folder / name, FRAMES, codec=codec, size=size, options={"g": "4", **OPTIONS.get(codec, {})}
            )
        make_videos.write(folder / "b-frames.mp4", 16, size=SIZE, options={"bf": "3", "g": "8"}, title="A title")
        times_ms = [0, 40, 45, 300, 310, 1000, 5000, 5001]
        make_videos.write(folder / "uneven.mkv", len(times_ms), size=SIZE, times_ms=times_ms)
        make_videos.trim(folder / "b-frames.mp4", folder / "trimmed.mp4", 3)
        make_videos.turn(folder / "h264.mp4", folder / "turned.mp4", 90, mirrored=True)
        make_videos.write_two_streams(folder / "two.mp4", 3, 4)
        make_videos.write_sound_with_cover(folder / "cover.mp3", folder)
        make_videos.write_photo(folder / "photo.jpg", np.zeros((32, 48, 3), np.uint8), 6)
        joined = [(folder / name).read_bytes() for name in ("mpeg2.ts", "h264.ts", "mpeg2.ts")]
        (folder / "joined.ts").write_bytes(b"".join(joined))

    def read(self, folder: Path) -> None:
        """Take the files that `make` wrote."""
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def steps(self, random: Random, folder: Path, hub: str) -> list[Step]:
        """Write one damaged file into a folder; return the commands that read it."""
        name = random.choice(list(self.files))
        others = list(self.files.values())
        data = mutated(random, self.files[name], others)
        if random.random() < 0.01:
            data, name = _playlist(random, hub, name)
        path = folder / (random.choice(NAMES) if random.random() < 0.2 else name)
        path.write_bytes(data)
        source, stdin = ("-", str(path)) if random.random() < 0.02 else (path.name, "")
        return [Step(tuple(_command(random, source)), stdin=stdin, inputs=(path,))]


def _playlist(random: Random, hub: str, name: str) -> tuple[bytes, str]:
    """A file that leads to others, of this machine or of the hub's."""
    target = random.choice((f"{hub}/a/b/resolve/main/c.mp4", "/etc/passwd", "file:///etc/passwd", f"../{name}"))
    texts: dict[str, str] = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "a.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={target}\n",
        "a.mpd": f"<?xml version='1.0'?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
        "a.svg": f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{target}'/></svg>",
    }
    name = random.choice(list(texts))
    return texts[name].encode(), random.choice((name, "a.mp4"))


def _command(random: Random, source: str) -> list[str]:
    command: Callable[[Random, str], list[str]] = random.choices((_compress, _inspect, _ask, _overlay), (60, 32, 5, 3))[
        0
    ]
    extras = random.sample(RANGES, random.choice((0, 0, 1, 2)))
    return [*command(random, source), *extras, *random.choice(([], [], ["--json"]))]


def _compress(random: Random, source: str) -> list[str]:
    ending = random.choice((".pt", ".safetensors"))
    given = ["--frames", str(random.choice((1, 2, 4)))]
    given += random.choice(([], ["--segment-frames", "2"]))
    return ["compress", source, "-o", f"out{ending}", "--model", "shapes", "--method", random.choice(METHODS), *given]


def _inspect(random: Random, source: str) -> list[str]:
    return ["inspect", source, *random.choice(([], ["--frames", "5"], ["--clips", "dynamic"]))]


def _ask(random: Random, source: str) -> list[str]:
    return ["ask", source, "what moves?", "--model", "shapes", "--frames", "4", "--max-new-tokens", "4"]


def _overlay(random: Random, source: str) -> list[str]:
    shown = random.choice((["--overlay", "out.mp4"], ["--html", "out.html"]))
    return ["inspect", source, "--model", "shapes", "--frames", "3", "--method", "uniform", *shown]
