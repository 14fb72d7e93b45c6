"""decord in its child process: whatever it does there, here it is pictures or one error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import FRAMES

from aot.config.schema import SamplingConfig
from aot.errors import ConfigError, VideoError
from aot.video import decode, decode_decord, open_video
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke

WITH_DECORD = SamplingConfig(frames=4, decoder="decord")
FAKE = """
import os, signal, sys, threading, time
import numpy as np
from pathlib import Path

class logging:
    QUIET = 0
    set_level = staticmethod(lambda level: None)

class Picture:
    def __init__(self, shape): self.shape = shape
    def asnumpy(self): return np.full(self.shape, 77, np.uint8)

class VideoReader:
    def __init__(self, file, num_threads, fault_tol):
        Path({note!r}).write_text(str(os.getpid()))
        {opening}
    def __len__(self):
        return {frames}
    def __getitem__(self, position):
        {reading}
        return Picture(({height}, {width}, 3))
"""


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the fake writes its process id."""
    return tmp_path / "pid"


@pytest.fixture
def fake(tmp_path: Path, note: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a package that is imported in place of decord and does as it is told."""
    package = tmp_path / "fake" / "decord.py"
    package.parent.mkdir()
    monkeypatch.syspath_prepend(str(package.parent))

    def write(opening: str = "pass", reading: str = "pass", frames: int = FRAMES, size: Any = (160, 96)) -> Path:
        width, height = size
        package.write_text(
            FAKE.format(note=str(note), opening=opening, reading=reading, frames=frames, width=width, height=height)
        )
        return package.parent

    return write


def assert_gone(note: Path) -> None:
    """The child has ended, and its parent knows."""
    pid = int(note.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("the child is still there")


@pytest.mark.parametrize("when", ["opening", "reading"])
@pytest.mark.parametrize(
    "crash", ["os.abort()", "os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(0)", "np.zeros(1 << 40, np.uint8).sum()"]
)
def test_a_crash_is_an_error(when: str, crash: str, clip: Path, fake: Any, note: Path) -> None:
    fake(**{when: crash})
    with pytest.raises(VideoError, match=r"decord (crashed on|cannot read) .*clip\.mp4: use --decoder pyav$"):
        decode(clip, WITH_DECORD)
    assert_gone(note)


@pytest.mark.parametrize("when", ["opening", "reading"])
def test_a_hang_is_an_error(when: str, clip: Path, fake: Any, note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_decord, "_PATIENCE_S", 1.0)
    fake(**{when: "time.sleep(1000)"})
    with pytest.raises(VideoError, match=r"decord hangs on .*clip\.mp4, no picture in \d+ s: use --decoder pyav$"):
        decode(clip, WITH_DECORD)
    assert_gone(note)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 21}, "sees 21 frames in .*, not 90"),
        ({"size": (80, 48)}, "reads another stream or size of"),
        (
            {"size": (1 << 20, 1 << 20), "reading": "Picture.asnumpy = lambda self: self"},
            "reads another stream or size",
        ),
        ({"reading": "raise RuntimeError('damaged')"}, "cannot read"),
        ({"opening": "raise ImportError('a part')"}, "cannot read"),
    ],
)
def test_other_frames_than_asked_are_refused(wrong: dict[str, Any], message: str, clip: Path, fake: Any) -> None:
    fake(**wrong)
    with pytest.raises(VideoError, match=f"decord {message}.*: use --decoder pyav$"):
        decode(clip, WITH_DECORD)


def test_what_decord_prints_is_not_taken_for_pictures(clip: Path, fake: Any, capfd: pytest.CaptureFixture[str]) -> None:
    fake(opening="print('hello', flush=True); os.write(1, b'hello'); os.write(2, b'hello')")
    assert (decode(clip, WITH_DECORD).pixels == 77).all()
    assert capfd.readouterr() == ("", "")


def test_decord_that_is_not_installed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="not installed or cannot be loaded: install it, or use --decoder pyav"):
        decode(clip, WITH_DECORD)


def test_decord_that_does_not_load(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text("raise OSError('libdecord.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="not installed or cannot be loaded: install it, or use --decoder pyav"):
        decode(clip, WITH_DECORD)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_reader_that_is_left_ends_its_child_at_once(clip: Path, fake: Any, note: Path) -> None:
    """Also while a thread waits for a picture that never comes."""
    fake(reading="time.sleep(1000)")

    def interrupt() -> None:
        while not note.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with open_video(clip, WITH_DECORD) as video, pytest.raises(KeyboardInterrupt), video.frames(ahead=2) as stream:
        next(stream.images)
    assert time.monotonic() - start < 20
    assert_gone(note)


SCRIPT = """
import os, sys
from aot.config.schema import SamplingConfig
from aot.video import open_video
from aot_cli.signals import terminable
with terminable(), open_video({clip!r}, SamplingConfig(frames=4, decoder="decord")) as video:
    with video.pictures(video.plan.timestamps_s) as pictures:
        list(pictures)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_program_ends_the_child(number: int, clip: Path, fake: Any, note: Path) -> None:
    folder = fake(reading="time.sleep(1000)")
    root = Path(decode_decord.__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(clip=str(clip))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])},
        stderr=subprocess.DEVNULL,
    )
    while not (note.exists() and note.read_text()):
        assert program.poll() is None
        time.sleep(0.01)
    program.send_signal(number)
    assert program.wait(20) != 0
    assert_gone(note)


def test_decord_and_a_name_that_is_not_utf_8(clip: Path, tmp_path: Path) -> None:
    """decord takes no such name: an error and no picture of another file."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    try:
        path.write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(VideoError, match=r"decord cannot read .*: use --decoder pyav"):
        decode(path, WITH_DECORD)


def test_decord_and_a_recording_with_wall_clock_times(tmp_path: Path) -> None:
    """decord asks for an index entry per frame since 1970, which aborts it."""
    late = make.write(tmp_path / "late.mkv", 8, times_ms=[1_700_000_000_000 + 40 * k for k in range(8)])
    with pytest.raises(VideoError, match=r"decord crashed on .*: use --decoder pyav"):
        decode(late, WITH_DECORD)
