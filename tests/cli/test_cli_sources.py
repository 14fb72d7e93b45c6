"""Where a video comes from, how often it is read, and what is said of it: the whole way through a command."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.support import make_videos as make
from tests.support.cli_run import Aot
from tests.support.web_server import Reply, serve


class _Counted:
    """A container that counts the packets read from it."""

    def __init__(self, container: Any, read: list[int]) -> None:
        self._container, self._read = container, read

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, *streams: Any) -> Iterator[Any]:
        for packet in self._container.demux(*streams):
            self._read[-1] += 1
            yield packet


@pytest.fixture
def packets_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many packets were read after each opening of a file for reading."""
    read: list[int] = []
    real_open = av.open

    def counting(*arguments: Any, **options: Any) -> Any:
        container = real_open(*arguments, **options)
        if not isinstance(container, av.container.InputContainer):
            return container
        read.append(0)
        return _Counted(container, read)

    monkeypatch.setattr(av, "open", counting)
    return read


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the system's for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("compress", "long.mp4", "-o", "t.pt"),
        ("ask", "long.mp4", "what happens?"),
        ("compare", "long.mp4", "what happens?", "--methods", "none,aot"),
    ],
)
def test_a_video_is_indexed_once(
    run_aot: Aot, small: tuple[str, ...], packets_read: list[int], command: tuple[str, ...]
) -> None:
    """Its packets are read for the index, a few for its rotation, and those of the frames that are decoded."""
    frames = 120
    make.write(Path("long.mp4"), frames, options={"g": "10", "bf": "0"})
    assert run_aot(*command, *small).code == 0
    index, rotation, decoder = packets_read
    assert index <= frames + 1  # and the one that says it is the end
    assert rotation <= 5
    assert decoder <= frames + 1


def test_what_inspect_shows_without_a_model_needs_the_index_alone(
    run_aot: Aot, clip_file: Path, packets_read: list[int]
) -> None:
    assert run_aot("inspect", clip_file, "--json").code == 0
    assert len(packets_read) == 2


def test_an_address_is_asked_and_leaves_nothing(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, temporary: Path
) -> None:
    with serve({"/clip.mp4": Reply(clip_file.read_bytes()), "/watch": Reply(b"<html>", kind="text/html")}) as address:
        fetched = run_aot("compress", address("/clip.mp4"), "-o", "a.pt", *small, "--json")
        assert fetched.code == 0
        assert fetched.json["video"]["path"] == address("/clip.mp4")
        local = run_aot("compress", clip_file, "-o", "b.pt", *small, "--json").json
        assert {**fetched.json["video"], "path": ""} == {**local["video"], "path": ""}
        assert fetched.json["frames"] == local["frames"]
        assert run_aot("compare", address("/clip.mp4"), "what?", *small, "--methods", "aot").code == 0
        overlay = ("--overlay", "o.mp4")
        assert run_aot("inspect", address("/clip.mp4"), *small, *overlay).code == 0
        page = run_aot("ask", address("/watch"), "what happens?", *small)
        assert page.code == 3
        assert "yt-dlp" in page.err
        assert run_aot("ask", address("/clip.mp4"), "what?", *small, "--max-input-mb", "0").code == 2
    gone = run_aot("ask", address("/clip.mp4"), "what happens?", *small)
    assert gone.code == 3
    assert len(gone.err.strip().splitlines()) == 1
    assert list(temporary.iterdir()) == []


def test_settings_are_checked_before_a_download(run_aot: Aot) -> None:
    run = run_aot("ask", "http://127.0.0.1:9/clip.mp4", "what happens?", "--ratio", "7")
    assert run.code == 2


def test_standard_input_is_read_once_for_all(
    run_aot: Aot, small: tuple[str, ...], clip_file: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        buffer = io.BytesIO(clip_file.read_bytes())

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Input())
    run = run_aot("inspect", "-", *small, "--overlay", "o.mp4", "--json")
    assert run.code == 0
    assert run.json["video"]["path"] == "standard input"
    assert Path("o.mp4").exists()
    assert list(temporary.iterdir()) == []


def test_a_picture_is_said_to_be_one(run_aot: Aot, small: tuple[str, ...]) -> None:
    make.write(Path("photo.mp4"), 1)
    says = "photo.mp4 is a picture: one frame, without any motion"
    for command in (
        ("ask", "photo.mp4", "what moves?"),
        ("compress", "photo.mp4", "-o", "t.pt"),
        ("inspect", "photo.mp4"),
    ):
        run = run_aot(*command, *small, "--ratio", "0.5", "--json")
        assert run.code == 0
        assert run.json["notices"].count(says) == 1
        assert f"note: {says}" in run.err
    assert says in run_aot("inspect", "photo.mp4", "--json").json["notices"]


def test_damage_is_said_in_numbers_and_refused_where_strict(
    run_aot: Aot, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make.write(Path("whole.mp4"), 90, options={"g": "250", "bf": "2"})
    make.overwrite_packets(Path("whole.mp4"), Path("damaged.mp4"), range(40, 90))
    command = ("compress", "damaged.mp4", *small, "--ratio", "0.5", "--json")
    run = run_aot(*command, "-o", "a.pt")
    assert run.code == 0
    (lost,) = (notice for notice in run.json["notices"] if "are lost" in notice)
    count = 8 - len(run.json["frames"])
    assert lost.startswith(f"the video is damaged: {count} of 8 sampled frames are lost")
    assert count >= 3
    strict = run_aot(*command, "-o", "b.pt", "--strict")
    assert strict.code == 3
    assert "which --strict refuses" in strict.err
    monkeypatch.setenv("AOT_STRICT", "1")
    assert run_aot(*command, "-o", "b.pt").code == 3
    assert run_aot(*command, "-o", "b.pt", "--no-strict").code == 0
    Path("b.pt").unlink()
    monkeypatch.delenv("AOT_STRICT")
    Path("aot.yaml").write_text("sampling: {strict: true}\n")
    assert run_aot(*command, "-o", "b.pt").code == 3
    assert not Path("b.pt").exists()
    shutil.copy("whole.mp4", "damaged.mp4")
    assert run_aot(*command, "-o", "b.pt").code == 0
