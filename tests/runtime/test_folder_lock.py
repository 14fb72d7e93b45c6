"""A new folder that got no result is removed after an error; no other folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot.runtime.folder_lock import locked, removed_if_unused


def interrupted(folder: Path, written: str = "") -> None:
    with pytest.raises(KeyboardInterrupt), removed_if_unused(folder):
        folder.mkdir(exist_ok=True)
        with locked(folder):
            if written:
                (folder / written).touch()
            raise KeyboardInterrupt


def test_a_new_folder_is_removed_if_nothing_was_written(tmp_path: Path) -> None:
    interrupted(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    interrupted(tmp_path / "used", "answers.jsonl")
    assert (tmp_path / "used" / "answers.jsonl").exists()
    (tmp_path / "old").mkdir()
    interrupted(tmp_path / "old")
    assert (tmp_path / "old").exists()
