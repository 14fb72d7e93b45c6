"""Tokens files made to harm: what they claim is refused before it takes memory, and their reports are checked."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from functools import reduce
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_tokens_file import damage, some_report, some_tokens
from typer.testing import CliRunner

from aot.errors import TokensFileError
from aot.reports.retention import FrameRetention, RetentionReport
from aot.storage.tokens_file import SUFFIXES, load_tokens, save_tokens
from aot_cli.main import app
from tests.support.plain_values import Called, places, put

STRETCHED = torch.zeros(1).expand(10**6)


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"tokens{request.param}"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.pt"
    save_tokens(path, some_tokens(), some_report(some_tokens()))
    return path


def refused(path: Path, why: str = "") -> None:
    """Check that a file is refused in one line, because of `why`, and that it costs little more than its size."""
    tracemalloc.start()
    try:
        with pytest.raises(TokensFileError) as caught:
            load_tokens(path)
        assert tracemalloc.get_traced_memory()[1] < 30 * path.stat().st_size + 2**21
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and why in str(caught.value.__cause__)


# --- The archive


def directory_of(data: bytes) -> tuple[int, bytes, bytes]:
    """Where the directory begins, its bytes, and those after it."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        start, length = (
            archive.start_dir,
            sum(46 + len(entry.filename) + len(entry.extra) for entry in archive.infolist()),
        )
    return start, data[start : start + length], data[start + length :]


def with_directory(body: bytes, directory: bytes, count: int) -> bytes:
    return body + directory + struct.pack("<4s4xHHIIH", b"PK\5\6", count, count, len(directory), len(body), 0)


def test_a_good_directory_stays_good(good: Path) -> None:
    data = good.read_bytes()
    start, directory, _ = directory_of(data)
    good.write_bytes(with_directory(data[:start], directory, directory.count(b"PK\1\2")))
    assert len(load_tokens(good).tokens.features) == 6


@pytest.mark.parametrize("times", [1, 2000])
def test_an_archive_that_ends_as_large_ones_do(good: Path, times: int) -> None:
    """The sizes of a zip64 archive are in a record of their own; it is read, and checked, like the other."""
    data = good.read_bytes()
    start, directory, _ = directory_of(data)
    directory *= times
    count = directory.count(b"PK\1\2")
    body = data[:start] + directory
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0, 2**32 - 1, 0)
    good.write_bytes(body + record + locator + end)
    if times == 1:
        assert len(load_tokens(good).tokens.features) == 6
    else:
        refused(good, "few entries")


def test_two_directories(good: Path) -> None:
    data = good.read_bytes()
    good.write_bytes(with_directory(data, directory_of(data)[1], directory_of(data)[1].count(b"PK\1\2")))
    refused(good)


@pytest.mark.parametrize("rename", [True, False])
def test_many_entries_over_the_same_bytes(good: Path, rename: bool) -> None:
    data = good.read_bytes()
    start, directory, _ = directory_of(data)
    entry = directory[directory.rindex(b"PK\1\2") :]
    copies = [entry[:-3] + f"{number:03}".encode() if rename else entry for number in range(200)]
    every = directory + b"".join(copies)
    good.write_bytes(with_directory(data[:start], every, every.count(b"PK\1\2")))
    refused(good)


@pytest.mark.parametrize("change", [lambda data: b"x" + data, lambda data: data + b"x", lambda data: data + bytes(100)])
def test_more_than_the_archive(good: Path, change: Callable[[bytes], bytes]) -> None:
    good.write_bytes(change(good.read_bytes()))
    refused(good)


def test_bytes_between_entries_and_directory(good: Path) -> None:
    data = good.read_bytes()
    start, directory, _ = directory_of(data)
    good.write_bytes(with_directory(data[:start] + bytes(1000), directory, directory.count(b"PK\1\2")))
    refused(good)


def test_a_long_directory_is_not_read(good: Path) -> None:
    data = good.read_bytes()
    start, directory, _ = directory_of(data)
    every = directory * 2000
    good.write_bytes(with_directory(data[:start], every, 0))
    refused(good, "few entries")


# --- The pickle


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("name", ["timestamps_s", "clips", "facts", "report", "grid", "features", "mass", "duration_s"])
def test_tensors_that_repeat_memory(good: Path, name: str) -> None:
    torch.save({**torch.load(good, weights_only=True), name: STRETCHED}, good)
    refused(good)


@pytest.mark.parametrize("name", ["features", "mass", "role"])
def test_tensors_that_repeat_memory_in_the_right_shape(good: Path, name: str) -> None:
    content = torch.load(good, weights_only=True)
    torch.save({**content, name: content[name][:1].expand_as(content[name])}, good)
    refused(good, "stored contiguously")


@pytest.mark.parametrize("name", ["timestamps_s", "report", "facts"])
@pytest.mark.parametrize(
    "value",
    [
        cycle(),
        reduce(lambda inner, _: [inner], range(400), []),
        Called(bytearray, (10**8,)),
        Called(set, (STRETCHED,)),
        Called(OrderedDict, (), {"get": 1}),
        torch.zeros(3),
        {1: 2},
    ],
    ids=["cycle", "deep", "bytearray", "set", "state", "tensor", "keys"],
)
def test_values_that_are_not_plain(good: Path, name: str, value: Any) -> None:
    torch.save({**torch.load(good, weights_only=True), name: value}, good)
    refused(good)


def test_an_object_that_replaces_get(good: Path) -> None:
    content = list(torch.load(good, weights_only=True).items())
    torch.save(Called(OrderedDict, (content,), {"get": 1}), good)
    refused(good)


def test_a_long_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tokens(path, some_tokens(), some_report(some_tokens()))
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "aot-tokens", "version": "1", "meta": "[" + "{}," * 6_000_000 + "{}]"})
    refused(path)


# --- The report

KEYS = [field.name for field in fields(RetentionReport)]
FRAME_KEYS = [field.name for field in fields(FrameRetention)]
WRONG: list[Any] = [None, "text", [], {}, -1, 2**70, float("nan"), float("inf"), True, [None], {"a": None}, [[]]]


def inspected(path: Path) -> dict[str, Any]:
    """What `inspect --json` prints of a file; without it, `inspect` must work as well."""
    assert CliRunner().invoke(app, ["inspect", str(path)]).exit_code == 0
    result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert result.exit_code == 0, result.output

    def fail(constant: str) -> None:
        raise AssertionError(constant)

    found: dict[str, Any] = json.loads(result.stdout, parse_constant=fail)
    return found


@pytest.mark.parametrize("name", KEYS)
def test_a_report_without_a_key(path: Path, name: str) -> None:
    damage(path, lambda content: content["report"].pop(name))
    with pytest.raises(TokensFileError, match=name):
        load_tokens(path)


@pytest.mark.parametrize("name", FRAME_KEYS)
def test_a_frame_without_a_key(path: Path, name: str) -> None:
    damage(path, lambda content: content["report"]["frames"][1].pop(name))
    with pytest.raises(TokensFileError, match=rf"report\.frames\[1\]\.{name}"):
        load_tokens(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("visual_tokens", 0),
        ("visual_tokens", True),
        ("visual_tokens", 19),
        ("kept_tokens", 19),
        ("retention", float("nan")),
        ("frames", []),
        ("frames.0.own", 2**31),
        ("frames.0.kept", 0),
        ("frames.2.frame", 3),
        ("frames.2.clip", 2),
        ("frames.1.similarity", float("inf")),
        ("stage_ms.decode", -1.0),
        ("peak_bytes.host", 0.5),
        ("model.width", "4"),
        ("model.fingerprint", None),
        ("video.frames", None),
        ("video.duration_s", float("nan")),
        ("versions.torch", 2),
        ("notices", [1]),
        ("facts", [1]),
        ("config", 3),
    ],
)
def test_a_wrong_value_is_named(path: Path, place: str, value: Any) -> None:
    parts = [int(part) if part.isdigit() else part for part in place.split(".")]
    damage(path, lambda content: put(content["report"], parts, value))
    with pytest.raises(TokensFileError) as caught:
        load_tokens(path)
    for part in place.split("."):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_facts_that_explain_each_other(path: Path) -> None:
    damage(path, lambda content: content["report"]["facts"].update(sampled_frames=3))
    with pytest.raises(TokensFileError, match=r"report\.facts\.selected_frames must be present"):
        load_tokens(path)


def test_what_earlier_versions_wrote_is_read_and_what_later_ones_add_is_left_out(path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        report = content["report"]
        report["model"] = {name: report["model"][name] for name in ("name", "fingerprint", "width")}
        report["video"] = {"path": "clip.mp4"}
        report["frames"][0]["new"] = report["new"] = 1
        report["config"] = {"method": "fastvid", "methods": {"fastvid": {"neighbours": 4}}}  # since renamed

    damage(path, change)
    found = inspected(path)
    assert found["config"]["methods"] == {"fastvid": {"neighbours": 4}}
    assert found["video"]["path"] == "clip.mp4" and found["model"]["revision"] is None
    assert found["config"]["ratio"] and "new" not in found and "new" not in found["frames"][0]


def test_numbers_that_json_does_not_have_become_null(path: Path) -> None:
    damage(path, lambda content: content["report"]["facts"].update(error=float("nan"), more=[float("inf")]))
    facts = inspected(path)["facts"]
    assert facts["error"] is None and facts["more"] == [None]


PLAIN = {"grid": [2, 3], "timestamps_s": [0.0, 0.1, 0.3], "clips": [[0, 2], [2, 3]], "facts": {}, "duration_s": 1.0}
PLACES = [*places({**PLAIN, "report": some_report(some_tokens()).to_dict()})]
VALUES = st.one_of(
    st.sampled_from(WRONG),
    st.integers(-3, 40),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
)


@settings(max_examples=40)
@given(st.sampled_from(SUFFIXES), st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=2))
def test_any_change_is_refused_or_read_and_shown(suffix: str, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    def change(content: dict[str, Any]) -> None:
        for way, value in changes:
            try:
                reduce(lambda inner, part: inner[part], way[:-1], content)[way[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue  # the change before took its place away

    with TemporaryDirectory() as folder:
        path = Path(folder) / f"tokens{suffix}"
        damage(path, change)
        try:
            load_tokens(path)
        except TokensFileError as error:
            assert "\n" not in str(error)
        else:
            inspected(path)


def test_what_is_said_of_a_damaged_file_is_one_line(path: Path) -> None:
    damage(path, lambda content: content["report"]["config"].update({"a\nb" * 500: 1, "ratio": 7}))
    with pytest.raises(TokensFileError) as caught:
        load_tokens(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_too_little_memory_is_not_the_files_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    save_tokens(path, some_tokens(), some_report(some_tokens()))
    for place in ("_read", "_parse"):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(f"aot.storage.tokens_file.{place}", fail)
            load_tokens(path)


def test_a_grid_that_no_video_has(path: Path) -> None:
    """An answer may need the positions of all of a video's tokens, kept or not."""
    sides = 2**12, 2**12

    def change(content: dict[str, Any]) -> None:
        content["grid"], content["report"]["visual_tokens"] = list(sides), 3 * sides[0] * sides[1]

    damage(path, change)
    with pytest.raises(TokensFileError, match="tokens at most"):
        load_tokens(path)
