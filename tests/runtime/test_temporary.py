"""Temporary files go with their process, however it ends, and never before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from aot.runtime.atomic_writes import write_whole
from aot.runtime.temporary_files import temporary_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be told from others there")
KILLED = """
import os, signal, sys
from pathlib import Path
from aot.runtime.atomic_writes import write_whole
from aot.runtime.temporary_files import temporary_file

def half(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
if sys.argv[2] == "write":
    write_whole(folder / "a.txt", half, overwrite=True)
with temporary_file(folder) as copy:
    half(copy)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["write", "copy"])
def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path, how: str) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path, how], check=False).returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".aot-")
    write_whole(tmp_path / "b.txt", lambda path: path.write_text("b"), overwrite=False)
    assert names(tmp_path) == ["b.txt"]


def test_one_that_is_in_use_stays(tmp_path: Path) -> None:
    """Also while libraries write to it, which open it again by its name."""
    for name, write in (("a.txt", lambda path: path.write_text("a")), ("a.pt", lambda path: torch.save([], path))):

        def writes(path: Path, write: object = write) -> None:
            write(path)  # type: ignore[operator]
            another = "import sys, pathlib\nimport aot.runtime.temporary_files as t\n"
            another += "with t.temporary_file(pathlib.Path(sys.argv[1])): pass"
            subprocess.run([sys.executable, "-c", another, tmp_path], check=True)
            with temporary_file(tmp_path):
                assert path.exists()

        write_whole(tmp_path / name, writes, overwrite=False)
    assert names(tmp_path) == ["a.pt", "a.txt"]


def test_many_at_once_do_not_take_each_others(tmp_path: Path) -> None:
    def one(number: int) -> None:
        with temporary_file(tmp_path) as path:
            path.write_text(str(number))
            assert path.read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(400)))
    assert names(tmp_path) == []


def test_one_that_was_made_anew_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has opened the file, but its owner removes and makes it before the other run locks it."""
    import fcntl

    left, lock = tmp_path / ".aot-1.part", fcntl.flock
    left.touch()

    def replaced(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB:
            left.rename(tmp_path / "old")
            left.touch()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replaced)
    with temporary_file(tmp_path):
        pass
    assert names(tmp_path) == [".aot-1.part", "old"]


def test_ctrl_c_just_after_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.open

    def interrupted(*arguments: object) -> int:
        os.close(make(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_file(tmp_path):
        pass
    assert names(tmp_path) == []


def test_others_of_that_name_stay(tmp_path: Path) -> None:
    """A folder, a pipe, a link and what it leads to: only files that this program made are its own."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".aot-link.part").symlink_to("mine")
    (tmp_path / ".aot-folder.part").mkdir()
    os.mkfifo(tmp_path / ".aot-pipe.part")
    (tmp_path / "aot-1.part").touch()
    before = names(tmp_path)
    with temporary_file(tmp_path):
        assert len(names(tmp_path)) == len(before) + 1
    assert names(tmp_path) == before
    assert (tmp_path / "mine").read_text() == "mine"


def test_another_users_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".aot-1.part").touch()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with temporary_file(tmp_path):
        pass
    assert names(tmp_path) == [".aot-1.part"]


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o600


def test_no_file_is_temporary_in_another_way() -> None:
    """`tempfile` names the folder; what it makes itself outlives a killed process."""
    makers = re.compile(r"mkdtemp|mkstemp|TemporaryDirectory|TemporaryFile")
    root = Path(__file__).parents[2]
    sources = [path for part in ("aot", "aot_cli") for path in (root / part).rglob("*.py")]
    assert sources
    assert [path.name for path in sources if makers.search(path.read_text("utf-8"))] == []
