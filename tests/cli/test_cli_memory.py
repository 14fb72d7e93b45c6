"""The memory a command needs does not grow with its video. A process each, as a peak cannot be undone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aot.runtime import memory
from tests.support.cli_run import Aot
from tests.support.make_videos import write
from tests.support.tiny_checkpoint import make_checkpoint

FRAMES, SEGMENT = 256, 16
MEGABYTE = 2**20


def peak_bytes(clip: Path, model: Path, frames: int, *more: str) -> int:
    arguments = ("--force", "--json", "--ratio", "0.1", "--frames", str(frames), "--model", str(model), *more)
    line = ["compress", str(clip), "-o", f"{clip}.pt", "--segment-frames", str(SEGMENT), *arguments]
    code = f"import sys; sys.argv = ['aot', *{line!r}]\nfrom aot_cli.entry import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak: int = json.loads(done.stdout)["peak_bytes"]["host"]
    return peak


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak")
def test_sixteen_times_the_frames_in_the_same_memory(tmp_path: Path) -> None:
    """The features of a frame are 0.33 MB here, so all frames at once would show."""
    model = make_checkpoint(tmp_path / "wide", grid=9, width=1024)
    clip = write(tmp_path / "long.mp4", FRAMES)
    short = peak_bytes(clip, model, SEGMENT)
    assert peak_bytes(clip, model, FRAMES) - short < 25 * MEGABYTE
    assert peak_bytes(clip, model, FRAMES, "--segment-frames", str(FRAMES)) - short > 60 * MEGABYTE  # it can be seen


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_peak_that_the_system_does_not_say_costs_no_result(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "no" / "proc")
    run = run_aot("compress", clip_file, "-o", "t.pt", *small, "--html", "kept.html", "--json")
    assert run.code == 0
    assert run.json["peak_bytes"] == {"host": None}
    assert "not known" in Path("kept.html").read_text()
    run = run_aot("inspect", "t.pt", "--json")
    assert (run.code, run.json["peak_bytes"]) == (0, {"host": None})
    run = run_aot("compare", clip_file, "what happens?", *small, "--methods", "none,aot")
    assert run.code == 0
    assert run.out.count("not known") == 2
    size = ("--frames", "2", "--grid", "8", "--width", "16", "--anchors", "8", "--rounds", "1")
    run = run_aot("bench", "compressor", *size, "--device", "cpu")
    assert run.code == 0
    assert "not known" in run.out
