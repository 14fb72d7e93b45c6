"""Files of all kinds, read by `aot` and by FFmpeg alone; `python -m tests.support.video_matrix` compares more."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from av.video.reformatter import Interpolation

from aot.video import colors, player
from aot.video.orientation import Orientation
from tests.support import video_matrix
from tests.support.matrix_files import kinds

FILES, SEED = 60, 17


def test_sixty_files_show_what_ffmpeg_shows() -> None:
    figures = video_matrix.compare_files(FILES, SEED, program=shutil.which("ffmpeg"))
    print(figures)
    assert figures.differences == []
    assert (figures.files, figures.frames > 5 * FILES) == (FILES, True)
    assert figures.exact > FILES / 2
    assert {"joined", "late", "variable", "one frame", "B-frames"} <= set(figures.timings)


def test_some_files_without_the_program() -> None:
    figures = video_matrix.compare_files(12, SEED, program=None)
    assert (figures.files, figures.differences) == (12, [])


@pytest.mark.parametrize("program", [None, shutil.which("ffmpeg")], ids=["without", "with"])
@pytest.mark.parametrize("mistake", ["mirror", "chroma", "order", "lost"])
def test_mistakes_are_found(mistake: str, program: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that finds nothing must be one that can find something."""
    if mistake == "mirror":
        monkeypatch.setattr(Orientation, "upright", lambda self, rgb: np.ascontiguousarray(rgb[:, ::-1]))
    elif mistake == "chroma":
        monkeypatch.setattr(colors, "Interpolation", type("Nearest", (), {"BICUBIC": Interpolation.POINT}))
    else:
        real = player._decode

        def wrong(*args: object, **how: object) -> object:
            frames = list(real(*args, **how))  # type: ignore[arg-type]
            return iter(frames[::-1] if mistake == "order" else frames[: len(frames) // 2])

        monkeypatch.setattr(player, "_decode", wrong)
    assert video_matrix.compare_files(30, SEED, program=program).differences


def test_kinds_are_the_same_for_a_seed() -> None:
    first, again, other = (list(islice(kinds(seed), 40)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({(kind.codec, kind.suffix) for kind in first}) == 40


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(Path(video_matrix.__file__)), "--files", "3", "--seed", "4"])
    assert video_matrix.main() == 0
    assert capsys.readouterr().out.startswith("3 files (")
    monkeypatch.setattr(Orientation, "upright", lambda self, rgb: np.ascontiguousarray(rgb[::-1]))
    assert video_matrix.main() == 1
