"""What is at a path, whatever text the path is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aot.runtime.paths import path_kind


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    found = [path_kind(tmp_path / name) for name in ("clip.mp4", "", "nothing.mp4", "clip.mp4/more")]
    assert found == ["file", "folder", None, None]
    assert path_kind(str(tmp_path / "clip.mp4")) == "file"


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are not files there")
def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert path_kind(tmp_path / "pipe") == "stream"


@pytest.mark.parametrize("text", ["", "a" * 300 + ". b", "a\0b", "x/" * 5000, "\udcff", "\ud800"])
def test_text_that_is_no_file_name(text: str) -> None:
    assert path_kind(text) is None
