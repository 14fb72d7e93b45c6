"""Files that several tests read, made once."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import make_videos as make

REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "videos"
FRAMES = 90


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the system's for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def clip(folder: Path) -> Path:
    """90 frames at 25 per second, a keyframe every 10, B-frames."""
    return make.write(folder / "clip.mp4", FRAMES, options={"g": "10", "bf": "2", "sc_threshold": "0"})


@pytest.fixture(scope="session")
def one_gop(folder: Path) -> Path:
    """90 frames, one keyframe."""
    return make.write(folder / "one_gop.mp4", FRAMES, options={"g": "250", "bf": "2"})


@pytest.fixture(scope="session")
def webm(folder: Path) -> Path:
    options = {"deadline": "realtime", "cpu-used": "8", "g": "15"}
    return make.write(folder / "clip.webm", FRAMES, codec="libvpx-vp9", options=options)


@pytest.fixture(scope="session")
def vfr(folder: Path) -> Path:
    """20 frames 40 ms apart, then 20 frames 120 ms apart."""
    times_ms = [40 * k for k in range(20)] + [800 + 120 * k for k in range(20)]
    return make.write(folder / "vfr.mkv", 40, times_ms=times_ms)


@pytest.fixture(scope="session")
def trimmed(clip: Path, folder: Path) -> Path:
    """`clip` with an edit list that hides its first 7 frames."""
    return make.trim(clip, folder / "trimmed.mp4", 7)


@pytest.fixture(scope="session")
def two_streams(folder: Path) -> Path:
    """A small stream of 30 frames, then the large one: 20 frames numbered from 100."""
    return make.write_two_streams(folder / "two.mp4", 30, 20)


@pytest.fixture(scope="session")
def damaged(one_gop: Path, folder: Path) -> Path:
    """`one_gop` with the packets number 40 to 44 unreadable."""
    return make.overwrite_packets(one_gop, folder / "damaged.mp4", range(40, 45))


def real_clip(name: str) -> Path:
    path = REAL_CLIPS / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs decord, by the name of the test or of its parameter, on platforms that it has no build for."""
    if find_spec("decord") is None:
        for item in items:
            if "decord" in item.name:
                item.add_marker(pytest.mark.skip(reason="decord is not installed"))
