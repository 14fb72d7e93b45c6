"""A result is written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aot.errors import OutputError
from aot.runtime.atomic_writes import check_writable, make_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(text: str = "new") -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def test_writes_a_new_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", write(), overwrite=False)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_nothing_is_under_the_name_until_all_is_written(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def slowly(path: Path) -> None:
        path.write_text("half")
        seen.append([name for name in names(tmp_path) if name == "a.txt"])

    write_whole(tmp_path / "a.txt", slowly, overwrite=False)
    assert seen == [[]]


@pytest.mark.parametrize(
    ("error", "caught", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "no space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), OutputError, "no space left"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "Input/output error"),
        (RuntimeError("PytorchStreamWriter failed writing file\nmore"), OutputError, "failed writing file"),
        (ValueError("something else"), ValueError, "something else"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, error: BaseException, caught: type[BaseException], says: str | None, existing: bool
) -> None:
    target = tmp_path / "a.txt"
    if existing:
        target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(caught, match=says):
        write_whole(target, fail, overwrite=True)
    assert names(tmp_path) == (["a.txt"] if existing else [])
    assert not existing or target.read_text() == "old"


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_existing_file_needs_force(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    if overwrite:
        write_whole(target, write(), overwrite=True)
    else:
        with pytest.raises(OutputError, match="--force"):
            write_whole(target, write(), overwrite=False)
    assert target.read_text() == ("new" if overwrite else "old")


def test_a_file_that_appears_meanwhile_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"

    def race(path: Path) -> None:
        path.write_text("ours")
        target.write_text("theirs")

    with pytest.raises(OutputError, match="--force"):
        write_whole(target, race, overwrite=False)
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_whole(tmp_path / "a.txt", write(), overwrite=False)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.txt", write(), overwrite=False)
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_what_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    target, seen = tmp_path / "a.txt", []
    target.touch()
    target.chmod(mode)

    def look(path: Path) -> None:
        seen.append(path.stat().st_mode & 0o777)
        path.write_text("new")

    write_whole(target, look, overwrite=True)
    assert (target.read_text(), target.stat().st_mode & 0o777, seen) == ("new", mode, [0o600])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_leads_to_what_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.txt", tmp_path / "a.txt"
    if there:
        target.write_text("old")
    link.symlink_to("far/target.txt")
    with pytest.raises(OutputError, match="--force"):
        write_whole(link, write(), overwrite=False)
    write_whole(link, write(), overwrite=True)
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    assert (names(tmp_path), names(tmp_path / "far")) == (["a.txt", "far"], ["target.txt"])


def test_a_link_to_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("no/target.txt")
    (tmp_path / "b.txt").symlink_to("b.txt")
    for name, says in (("a.txt", "no does not exist; make it first"), ("b.txt", "could not be written")):
        with pytest.raises(OutputError, match=says):
            check_writable(tmp_path / name, overwrite=True)


@pytest.mark.skipif(os.name != "posix", reason="pipes by name")
def test_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "file").touch()
    for name, says in (("pipe.txt", "device or a pipe"), ("file/a.txt", "is not a folder"), ("a\0.txt", "not a name")):
        with pytest.raises(OutputError, match=says):
            check_writable(tmp_path / name, overwrite=True)


def test_the_umask_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: another thread's new file would get other permissions."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    write_whole(tmp_path / "a.txt", write(), overwrite=False)
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_places_that_cannot_hold_a_file(tmp_path: Path, overwrite: bool) -> None:
    for target, says in ((tmp_path, "is a folder"), (tmp_path / "no" / "a.txt", "make it first")):
        for attempt in (check_writable, lambda path, overwrite: write_whole(path, write(), overwrite=overwrite)):
            with pytest.raises(OutputError, match=says):
                attempt(target, overwrite=overwrite)
    assert names(tmp_path) == []


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_whole(tmp_path / ("a" * 300 + ".pt"), write(), overwrite=False)


def test_the_longest_name_there_is(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 250 + ".pt")
    write_whole(target, write(), overwrite=False)
    assert target.read_text() == "new"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written to"):
            check_writable(tmp_path / "a.txt", overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_folders_are_made_or_explained(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file; name a folder"):
        make_folder(tmp_path / "file")
    for bad in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="could not be written"):
            make_folder(bad)


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.txt", overwrite=False)
    assert names(tmp_path) == []
