"""`aot inspect` in a terminal: strips of pictures where it can show them, plain text where not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aot_cli.output.strips import _dimmed
from tests.support.cli_run import Aot

pty = pytest.importorskip("pty", reason="pseudo-terminals are of Unix")

COLORS = re.compile(rb"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m\xe2\x96\x80")  # both colors of a half block
CODE = "from aot_cli.entry import main; main()"


def in_terminal(*arguments: str, **environment: str) -> bytes:
    """What the command writes to a terminal of 70 columns."""
    try:
        child, master = pty.fork()
    except OSError:  # as in a container without /dev/pts
        pytest.skip("this machine has no pseudo-terminals")
    if not child:
        os.environ.pop("NO_COLOR", None)
        os.environ |= {
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "PYTHONUTF8": "1",
            "COLUMNS": "70",
            **environment,
        }
        os.execv(sys.executable, [sys.executable, "-c", CODE, *arguments])
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, written.decode(errors="replace")
    return written


def test_a_terminal_gets_pictures(clip_file: Path) -> None:
    written = in_terminal("inspect", str(clip_file), "--frames", "6", "--clip-frames", "3")
    assert len(COLORS.findall(written)) == 6 * 18 * 14 // 2  # 160 x 120 pixels become 18 x 14
    assert written.count("◆".encode()) == 2
    assert b"their times" not in written


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}])
def test_others_get_text(clip_file: Path, environment: dict[str, str]) -> None:
    written = in_terminal("inspect", str(clip_file), "--frames", "6", "--clip-frames", "3", **environment)
    assert "▀".encode() not in written
    assert b"their times" in written


def test_plain_text_and_json_decode_nothing(run_aot: Aot, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aot.video.open_video", None)
    assert "their times" in run_aot("inspect", clip_file).out
    monkeypatch.setattr("aot_cli.commands.inspect.shows_pictures", lambda: True)
    assert run_aot("inspect", clip_file, "--json").json["clips"]


@pytest.fixture
def pictured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aot_cli.commands.inspect.shows_pictures", lambda: True)


@pytest.mark.usefixtures("pictured")
def test_with_a_model_and_without(run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    blocks = 8 * 18 * 14 // 2
    for model in ((), small):
        for method, keyframes in (("aot", 2), ("uniform", 0)):
            run = run_aot("inspect", clip_file, "--frames", "8", "--method", method, *model)
            assert (run.out.count("▀"), run.out.count("◆")) == (blocks, keyframes), run.err
    run = run_aot("inspect", clip_file, "--clips", "dynamic", "--frames", "8")
    assert (run.out.count("▀"), run.out.count("◆")) == (blocks, 0)


def test_without_torch(clip_file: Path) -> None:
    """Looking at a file stays quick."""
    code = (
        "import sys; from aot_cli.output import terminal_pictures; terminal_pictures.shows_pictures = lambda: True\n"
        "try:\n    from aot_cli.entry import main; main()\nfinally:\n    print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, "inspect", str(clip_file)], capture_output=True, check=True)
    assert run.stdout.decode().rstrip().endswith("False")
    assert "▀" in run.stdout.decode()


def test_discarded_patches_are_dimmed() -> None:
    picture, cells = np.full((4, 6, 3), 100, np.uint8), np.array([[True, False], [False, False]])
    shown = _dimmed(picture, cells)
    assert (shown[:2, :3] == 25).all()
    assert (shown == 100).sum() == 3 * (24 - 6) and (picture == 100).all()


@pytest.mark.usefixtures("pictured")
def test_frames_that_are_read_in_pairs(run_aot: Aot, clip_file: Path, qwen25_folder: Path) -> None:
    run = run_aot("inspect", clip_file, "--model", qwen25_folder, "--frames", "9")
    assert run.out.count("▀") == 5 * 18 * 14 // 2


@pytest.mark.usefixtures("pictured")
def test_standard_input_has_pictures_and_a_tokens_file_has_text(
    run_aot: Aot, clip_file: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with clip_file.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert "▀" in run_aot("inspect", "-").out
    run_aot("compress", clip_file, "-o", "t.pt", *small)
    assert "their times" in run_aot("inspect", "t.pt").out
