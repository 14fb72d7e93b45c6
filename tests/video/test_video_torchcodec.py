"""torchcodec by its documented interface: a stand-in that decodes with PyAV, and the real one where it loads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FRAMES, real_clip

from aot.config.schema import SamplingConfig
from aot.errors import ConfigError, VideoError
from aot.video import decode, decode_torchcodec
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke

WITH_TORCHCODEC = SamplingConfig(frames=7, decoder="torchcodec")
STAND_IN = """
from types import SimpleNamespace
import av, numpy as np, torch

opened = []

class VideoDecoder:
    def __init__(self, source, *, stream_index, dimension_order, num_ffmpeg_threads, device, seek_mode):
        assert (dimension_order, num_ffmpeg_threads, seek_mode) == ("NHWC", 0, "exact")
        opened.append(device)
        {opening}
        with av.open(source) as container:
            stream = container.streams[stream_index]
            self.frames = [(float(f.pts * stream.time_base), f.to_ndarray(format="rgb24", interpolation="BICUBIC"))
                           for f in container.decode(stream)]
        self.metadata = SimpleNamespace(num_frames=len(self.frames))

    def get_frame_at(self, index):
        time, rgb = self.frames[index]
        {reading}
        return SimpleNamespace(pts_seconds=time, data=torch.from_numpy(np.ascontiguousarray(rgb)))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a package that is imported in place of torchcodec."""
    package = tmp_path / "fake" / "torchcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def write(opening: str = "pass", reading: str = "pass", text: str = STAND_IN) -> None:
        (package / "decoders.py").write_text(text.format(opening=opening, reading=reading))

    yield write
    for name in ("torchcodec", "torchcodec.decoders"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["clip", "one_gop", "webm", "vfr"])
def test_frames_are_those_of_pyav(name: str, stand_in: Any, request: pytest.FixtureRequest) -> None:
    stand_in()
    path = request.getfixturevalue(name)
    ours, theirs = (decode(path, SamplingConfig(frames=7, decoder=decoder)) for decoder in ("pyav", "torchcodec"))  # type: ignore[arg-type]
    assert torch.equal(ours.pixels, theirs.pixels)
    assert ours.timestamps_s == theirs.timestamps_s


@pytest.mark.parametrize(
    ("opening", "reading", "message"),
    [
        ("raise RuntimeError('no such codec')", "pass", "torchcodec cannot read"),
        ("pass", "raise RuntimeError('could not push')", "torchcodec cannot read"),
        ("pass", "raise IndexError(index)", "torchcodec cannot read"),
        ("pass", "time += 0.04", "torchcodec returns frames of other times"),
        ("pass", "rgb = rgb[::-1]", "in other colors or another orientation"),
        ("pass", "rgb = rgb[:-2]", "in other colors or another orientation"),
        ("pass", "rgb = (rgb * 0.9).astype('u1')", "in other colors or another orientation"),
    ],
)
def test_what_it_gets_wrong_is_refused(opening: str, reading: str, message: str, clip: Path, stand_in: Any) -> None:
    stand_in(opening, reading)
    with pytest.raises(VideoError, match=rf"{message}.*: use --decoder pyav"):
        decode(clip, WITH_TORCHCODEC)


def test_another_number_of_frames_is_refused(clip: Path, stand_in: Any) -> None:
    stand_in(text=STAND_IN.replace("num_frames=len(self.frames)", "num_frames=3"))
    with pytest.raises(VideoError, match=rf"torchcodec sees 3 frames in .*, not {FRAMES}: use --decoder pyav"):
        decode(clip, WITH_TORCHCODEC)


def test_files_that_it_mistakes_are_refused(clip: Path, trimmed: Path, tmp_path: Path, stand_in: Any) -> None:
    stand_in()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * make.write(tmp_path / "part.ts", 20).read_bytes())
    avi = make.write(tmp_path / "x.avi", 20, options={"bf": "2"})
    mirrored = make.turn(clip, tmp_path / "mirrored.mp4", 0, mirrored=True)
    for path in (trimmed, joined, avi, mirrored):
        with pytest.raises(VideoError, match="use --decoder pyav"):
            decode(path, WITH_TORCHCODEC)


def test_the_gpu_is_tried_first(clip: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("\n        if device == 'cuda': raise RuntimeError('built without CUDA')")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert len(decode(clip, WITH_TORCHCODEC).pixels) == 7
    assert sys.modules["torchcodec.decoders"].opened == ["cuda", "cpu"]


def test_it_is_missing(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_torchcodec, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="torchcodec is not installed: install the version for your torch, or use"):
        decode(clip, WITH_TORCHCODEC)


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_its_libraries_do_not_load(error: str, clip: Path, stand_in: Any) -> None:
    stand_in(text=f"raise {error}('libavutil.so.60: cannot open\\nmore lines')")
    with pytest.raises(ConfigError, match=r"torchcodec cannot be loaded; .*FFmpeg.*, or use --decoder pyav") as found:
        decode(clip, WITH_TORCHCODEC)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["clouds-720p.mp4", "h265.mp4", "rotated-90.mov", "av1.mkv", "nasa-two-streams.mp4"])
def test_the_real_one_agrees_on_real_clips(name: str) -> None:
    try:
        ours, theirs = (
            decode(real_clip(name), SamplingConfig(frames=3, decoder=decoder))  # type: ignore[arg-type]
            for decoder in ("pyav", "torchcodec")
        )
    except ConfigError as error:
        pytest.skip(str(error))
    assert np.abs(ours.pixels.numpy().astype(int) - theirs.pixels.numpy()).mean() < 0.5
    assert ours.timestamps_s == theirs.timestamps_s
