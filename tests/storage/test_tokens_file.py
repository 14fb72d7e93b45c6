"""Kept tokens on disk: what goes in comes out, and what comes from elsewhere is read with suspicion."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aot.config.schema import Config
from aot.errors import ConfigError, OutputError, TokensFileError
from aot.models.base import ModelIdentity
from aot.pipeline.checks import check_same_model
from aot.reports.retention import ModelRecord, RetentionReport, frame_retention
from aot.storage.tokens_file import SUFFIXES, check_suffix, is_tokens_file, load_tokens, save_tokens
from aot.types import Clip, CompressedTokens, VideoInfo

COUNT, WIDTH = 6, 4
PER_TOKEN = ("frame", "row", "col", "role", "mass")


VIDEO = VideoInfo("clip é.mp4", "mp4", "h264", 64, 48, 0, 0, 1, 3, 3, 0, 1, 0.5, 6.0, False, False)
PLACEMENT = {
    "device": "cpu", "dtype": "float32", "attention": "sdpa", "vision_blocks": 2, "positions": "packed",
    "pooling": "bilinear",
}  # fmt: skip
MODEL = ModelRecord("some/model", None, "f" * 16, False, WIDTH, PLACEMENT, (1,))


def some_tokens(dtype: torch.dtype = torch.float32) -> CompressedTokens:
    def integers(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    return CompressedTokens(
        features=torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype),
        frame=integers(0, 0, 1, 0, 2, 2),
        row=integers(0, 1, 1, 0, 0, 1),
        col=integers(2, 0, 1, 2, 2, 0),
        role=torch.tensor([1, 1, 2, 3, 0, 0], dtype=torch.uint8),
        mass=torch.tensor([1, 1, 1, 2.5, 1, 1]),
        grid=(2, 3),
        timestamps_s=(0.0, 0.1, 0.30000000000000004),
        clips=(Clip(0, 2), Clip(2, 3)),
        facts={"anchors_asked": 3, "clip_mode": "fixed", "frame_embeddings": None, "error": 0.1, "on": True},
    )


def some_report(tokens: CompressedTokens) -> RetentionReport:
    return RetentionReport(
        visual_tokens=18,
        budget_tokens=COUNT,
        kept_tokens=COUNT,
        retention=1 / 3,
        frames=frame_retention(tokens, 6, [0.5, 0.25]),
        stage_ms={"decode": 1.5},
        peak_bytes={"host": 1},
        facts=dict(tokens.facts),
        model=MODEL,
        video=VIDEO,
        config=Config(),
        versions={"torch": "2"},
        notices=("one",),
    )


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"tokens{request.param}"


def save(path: Path, tokens: CompressedTokens | None = None, **options: bool) -> CompressedTokens:
    tokens = tokens or some_tokens()
    save_tokens(path, tokens, some_report(tokens), **options)
    return tokens


# --- Round trip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(path: Path, dtype: torch.dtype) -> None:
    tokens = save(path, some_tokens(dtype))
    file = load_tokens(path)
    for name in CompressedTokens.__dataclass_fields__:
        kept, found = getattr(tokens, name), getattr(file.tokens, name)
        if isinstance(kept, torch.Tensor):
            assert found.dtype == kept.dtype and torch.equal(found, kept), name
        else:
            assert found == kept and type(found) is type(kept), name
    assert file.report == some_report(tokens) and file.pictures is None


def test_views_are_stored_and_no_tokens_are_not(path: Path) -> None:
    tokens = some_tokens()
    tokens = replace(tokens, **{name: getattr(tokens, name)[::2] for name in ("features", *PER_TOKEN)})
    save(path, tokens)
    assert torch.equal(load_tokens(path).tokens.features, tokens.features)
    empty = replace(tokens, **{name: getattr(tokens, name)[:0] for name in ("features", *PER_TOKEN)})
    save(path, empty, overwrite=True)
    with pytest.raises(TokensFileError, match="there must be at least one token"):
        load_tokens(path)


def test_files_that_would_fill_the_memory(tmp_path: Path) -> None:
    """Small files that claim much: one value stretched over a large tensor, a compressed archive, shared lists."""
    save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    stretched = {**content, "features": torch.zeros(1, 1).expand(10**6, 10**4)}
    torch.save(stretched, tmp_path / "stretched.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    shared: list[Any] = [0] * 100
    for _ in range(20):
        shared = [shared] * 100
    torch.save({**content, "facts": shared}, tmp_path / "shared.pt")
    for name in ("stretched.pt", "deflated.pt", "shared.pt"):
        with pytest.raises(TokensFileError):
            load_tokens(tmp_path / name)


def test_pt_is_a_plain_dict_for_torch_alone(tmp_path: Path) -> None:
    tokens = save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (content["format"], content["version"]) == ("aot-tokens", 1)
    assert torch.equal(content["features"], tokens.features)
    assert content["report"]["model"]["name"] == "some/model"


def test_safetensors_hold_tensors_and_json(tmp_path: Path) -> None:
    tokens = save(tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["mass"], tokens.mass)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["meta"])["grid"] == [2, 3]


def test_the_file_does_not_hold_more_than_its_tokens(tmp_path: Path) -> None:
    """A view's whole storage would go to disk with it."""
    tokens = some_tokens()
    save(tmp_path / "a.pt", replace(tokens, features=torch.zeros(100_000, WIDTH)[:COUNT]))
    assert (tmp_path / "a.pt").stat().st_size < 50_000


# --- Names and overwriting


@pytest.mark.parametrize(
    ("name", "yes"), [("a.pt", True), ("b/c.safetensors", True), ("a.mp4", False), ("pt", False), ("a.pt.mp4", False)]
)
def test_names(name: str, yes: bool) -> None:
    assert is_tokens_file(name) == yes
    if yes:
        check_suffix(Path(name))
    else:
        with pytest.raises(ConfigError, match=r"must end in \.pt or \.safetensors"):
            check_suffix(Path(name))


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        save(tmp_path / "tokens.bin")
    assert not list(tmp_path.iterdir())


def test_overwriting_needs_force(path: Path) -> None:
    save(path)
    before = path.read_bytes()
    other = replace(some_tokens(), features=torch.ones(COUNT, WIDTH))
    with pytest.raises(OutputError, match="--force"):
        save(path, other)
    assert path.read_bytes() == before
    save(path, other, overwrite=True)
    assert torch.equal(load_tokens(path).tokens.features, other.features)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")])
def test_a_failure_while_writing_leaves_no_file(path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("torch.save", fail)
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OutputError):
        save(path)
    assert not list(path.parent.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes")
def test_a_disk_that_is_really_full(path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    import resource

    tokens = replace(some_tokens(), features=torch.zeros(COUNT, 50_000))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError):
            save(path, tokens)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(path.parent.iterdir())


# --- Files that are not ours, or not whole


def test_no_such_file(path: Path) -> None:
    with pytest.raises(TokensFileError, match=r"no tokens file .*aot compress"):
        load_tokens(path)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated(path: Path, part: float) -> None:
    save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(TokensFileError):
        load_tokens(path)


NOISE = random.Random(0).randbytes(500)  # the same in every process of the suite: it names a test


@pytest.mark.parametrize("content", [b"\x00" * 100, b"PK\x03\x04" + b"x" * 50, NOISE, b"{}", b"\x80\x04."])
def test_other_content(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(TokensFileError):
        load_tokens(path)


class Run:
    """Makes a folder when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("inside", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, write: Callable[..., Any], inside: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "a.pt"
    run = Run(marker)
    write({"format": "aot-tokens", "version": 1, "features": run} if inside else run, path)
    with pytest.raises(TokensFileError, match=r"not opened|damaged"):
        load_tokens(path)
    assert not marker.exists()


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), {}, {"format": "other", "version": 1}, {"features": 1}])
def test_a_torch_file_of_something_else(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(TokensFileError, match="not written by aot"):
        load_tokens(tmp_path / "a.pt")


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(TokensFileError, match="not written by aot"):
        load_tokens(tmp_path / "a.safetensors")


def damage(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a good file, and write it again with a change in its content."""
    save(path)
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
        return
    with safe_open(path, "pt") as file:
        header = file.metadata()
        content = {**{name: file.get_tensor(name) for name in file.keys()}, **json.loads(header["meta"])}  # noqa: SIM118
    content |= {"format": header["format"], "version": header["version"]}
    change(content)
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    meta = {name: value for name, value in content.items() if name not in {*tensors, "format", "version"}}
    new = {name: str(content[name]) for name in ("format", "version") if name in content} | {"meta": json.dumps(meta)}
    path.unlink()
    save_file(tensors, path, metadata=new)


def test_the_damaging_helper_does_no_damage_of_its_own(path: Path) -> None:
    damage(path, lambda content: None)
    assert torch.equal(load_tokens(path).tokens.features, some_tokens().features)


FIELDS = ("features", *PER_TOKEN, "grid", "timestamps_s", "clips", "facts", "report", "version")


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field(path: Path, name: str) -> None:
    damage(path, lambda content: content.pop(name))
    with pytest.raises(TokensFileError):
        load_tokens(path)


@pytest.mark.parametrize("name", ["features", *PER_TOKEN])
def test_lengths_that_do_not_agree(path: Path, name: str) -> None:
    damage(path, lambda content: content.update({name: content[name][:-1].clone()}))
    with pytest.raises(TokensFileError, match=r"damaged \("):
        load_tokens(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("frame", 3), ("frame", -1), ("row", 2), ("row", -1), ("col", 3), ("role", 4), ("role", 255)],
)
def test_places_outside_the_video(path: Path, name: str, value: int) -> None:
    damage(path, lambda content: content[name].__setitem__(2, value))
    with pytest.raises(TokensFileError, match=f"{name} must be in"):
        load_tokens(path)


@pytest.mark.parametrize("name", ["features", "mass"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(path: Path, name: str, value: float) -> None:
    damage(path, lambda content: content[name][1:2].fill_(value))
    with pytest.raises(TokensFileError, match=name):
        load_tokens(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features", torch.zeros(COUNT, WIDTH + 1)),
        ("features", torch.zeros(COUNT)),
        ("features", torch.zeros(COUNT, WIDTH, 1)),
        ("features", torch.tensor(1.0)),
        ("features", torch.zeros(COUNT, WIDTH, dtype=torch.int64)),
        ("features", torch.zeros(COUNT, WIDTH, dtype=torch.float8_e4m3fn)),
        ("features", [1.0] * COUNT),
        ("frame", torch.zeros(COUNT)),
        ("frame", torch.zeros(COUNT, 1, dtype=torch.int32)),
        ("mass", torch.ones(COUNT, dtype=torch.float64)),
        ("grid", [2]),
        ("grid", [2, 3, 4]),
        ("grid", "ab"),
        ("grid", [float("inf"), 3]),
        ("grid", None),
        ("timestamps_s", 3),
        ("timestamps_s", ["a", "b", "c"]),
        ("timestamps_s", [0.0, 0.1, float("nan")]),
        ("clips", [[0]]),
        ("clips", [[0, 1, 2]]),
        ("clips", 5),
        ("clips", []),
        ("clips", [[0, 99]]),
        ("clips", [[0, 2]]),
        ("clips", [[1, 3], [0, 1]]),
        ("facts", 1),
        ("report", []),
        ("report", {}),
        ("report", {"model": None}),
        ("report", {"model": {"name": "some/model", "revision": None, "fingerprint": "f" * 16}}),
        ("version", "one"),
        ("version", None),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_fields_that_make_no_sense(path: Path, name: str, value: Any) -> None:
    damage(path, lambda content: content.update({name: value}))
    with pytest.raises(TokensFileError):
        load_tokens(path)


@pytest.mark.parametrize("meta", ["[]", "3", "null", "{", '"a"', pytest.param("[" * 100_000, id="deep")])
def test_a_header_that_is_no_group(tmp_path: Path, meta: str) -> None:
    path = tmp_path / "a.safetensors"
    save(path)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "aot-tokens", "version": "1", "meta": meta})
    with pytest.raises(TokensFileError):
        load_tokens(path)


def test_a_newer_format(path: Path) -> None:
    damage(path, lambda content: content.update(version=2))
    with pytest.raises(TokensFileError, match=r"newer aot \(format 2\); upgrade"):
        load_tokens(path)


# --- Whose tokens they are


def test_another_models_tokens_are_refused(path: Path) -> None:
    save(path)
    made_by = load_tokens(path).report.model
    check_same_model(made_by, ModelIdentity("elsewhere", "abc", "f" * 16))
    with pytest.raises(TokensFileError, match="made by some/model"):
        check_same_model(made_by, ModelIdentity("some/model", None, "0" * 16))
