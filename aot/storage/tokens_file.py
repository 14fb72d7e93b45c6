"""Write and read tokens files: `.pt` (torch loads it with weights_only=True) or `.safetensors`.

Both formats hold the tensors of `CompressedTokens` by attribute name and, as plain values, the
grid, clips, timestamps and the whole `RetentionReport`. This is enough to answer questions later,
to draw the kept tokens, and to repeat the run. Reading a file never executes code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from aot.errors import ConfigError, TokensFileError
from aot.reports.retention import Compression, RetentionReport
from aot.runtime.atomic_writes import write_whole
from aot.runtime.json_files import parse_json
from aot.runtime.paths import path_kind
from aot.runtime.plain_values import check_plain, each, free, named, number, optional, record, whole
from aot.storage.pt_file import MOST_PLAIN_BYTES, read_pt
from aot.text import is_utf8
from aot.types import Clip, CompressedTokens, Role

__all__ = ["SUFFIXES", "check_suffix", "is_tokens_file", "load_tokens", "safetensors_bytes", "save_tokens"]

SUFFIXES = (".pt", ".safetensors")
_FORMAT = "aot-tokens"
_VERSION = 1
_FEATURE_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")
_PER_TOKEN = {"frame": "int32", "row": "int32", "col": "int32", "role": "uint8", "mass": "float32"}
_MOST_VISUAL_TOKENS = 2**24  # before compression; positions are computed for all of them
_LONGEST_NAME = 4096  # the longest path on common systems
_TENSORS = ("features", *_PER_TOKEN)
_OPTIONAL_TENSORS = ("deepstack",)
_READERS = {
    "grid": each(whole(1), 2),
    "timestamps_s": each(number()),
    "clips": each(each(whole(), 2)),
    "facts": named(free),
    "duration_s": optional(number()),
}


def is_tokens_file(path: str | Path) -> bool:
    """Return whether `path` has the suffix of a tokens file; the content is not checked."""
    return Path(path).suffix in SUFFIXES


def check_suffix(path: Path) -> None:
    """Check the name of a tokens file.

    Raises:
        ConfigError: If `path` does not end in .pt or .safetensors, or if it ends in .safetensors
            and is not valid UTF-8.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path.name} must end in {' or '.join(SUFFIXES)}, which also chooses the format")
    if path.suffix == ".safetensors" and not is_utf8(str(path)):
        raise ConfigError(f"the name {path} is not UTF-8, which .safetensors files need; choose another name, or .pt")


def save_tokens(
    path: str | Path, tokens: CompressedTokens, report: RetentionReport, *, overwrite: bool = False
) -> None:
    """Write a tokens file completely or not at all.

    Raises:
        ConfigError: See `check_suffix`.
        OutputError: If the file exists and `overwrite` is false, or it cannot be written.
    """
    import torch

    path = Path(path)
    check_suffix(path)
    tensors, plain = _content(tokens, report)

    def write(temporary: Path) -> None:
        if path.suffix == ".pt":
            torch.save({"format": _FORMAT, "version": _VERSION, **tensors, **json.loads(plain)}, temporary)
        else:
            _save_safetensors(tensors, temporary, _header(plain))

    write_whole(path, write, overwrite=overwrite)


def safetensors_bytes(tokens: CompressedTokens, report: RetentionReport) -> bytes:
    """Return what `save_tokens` writes to a .safetensors file."""
    from safetensors.torch import save

    tensors, plain = _content(tokens, report)
    content: bytes = save(tensors, metadata=_header(plain))
    return content


def _content(tokens: CompressedTokens, report: RetentionReport) -> tuple[dict[str, Any], str]:
    """Return the tensors of a tokens file, and its other values as JSON."""
    names = ("features", *_PER_TOKEN, *(["deepstack"] if tokens.deepstack is not None else []))
    tensors = {name: getattr(tokens, name).cpu().clone().contiguous() for name in names}
    meta = {
        "grid": list(tokens.grid),
        "timestamps_s": list(tokens.timestamps_s),
        "duration_s": tokens.duration_s,
        "clips": [[clip.first, clip.stop] for clip in tokens.clips],
        "facts": dict(tokens.facts),
        "report": report.to_dict(),
    }
    # JSON makes values plain: a budget is a subclass of int, which pickle would store as a call.
    return tensors, json.dumps(meta)


def _header(plain: str) -> dict[str, str]:
    return {"format": _FORMAT, "version": str(_VERSION), "meta": plain}


def _save_safetensors(tensors: dict[str, Any], path: Path, header: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from error


def load_tokens(path: str | Path) -> Compression:
    """Read and check a tokens file; the returned compression has no pictures.

    Raises:
        TokensFileError: If the file is missing or damaged, was not written by aot, or holds more
            than tensors and plain values.
    """
    path = Path(path)
    if path_kind(path) != "file":
        raise TokensFileError(f"there is no tokens file {path}; make one with: aot compress VIDEO -o {path.name}")
    if path.suffix == ".safetensors" and not is_utf8(str(path)):
        raise TokensFileError(f"the name {path} is not UTF-8, which .safetensors files need; rename it")
    try:
        content = _read(path)
    except MemoryError:
        raise  # not the fault of the file
    except Exception as error:
        raise TokensFileError(
            f"{path} is not a tokens file: it is damaged or holds something other than plain tensors, "
            "and was not opened; compress the video again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise TokensFileError(f"{path} was not written by aot; make a tokens file with: aot compress VIDEO -o FILE.pt")
    try:
        version = int(content["version"])
        if version <= _VERSION:
            return _parse(content)
    except MemoryError:
        raise
    except Exception as error:
        why = shorten(str(error), 300)  # in one line; parts of it may come from the file
        raise TokensFileError(f"{path} is damaged ({why}); compress the video again") from error
    raise TokensFileError(f"{path} was written by a newer aot (format {version}); upgrade aot")


def _read(path: Path) -> Any:
    if path.suffix == ".pt":
        return read_pt(path)
    from safetensors import safe_open

    with path.open("rb") as file:
        _require(int.from_bytes(file.read(8), "little") <= MOST_PLAIN_BYTES, "its header is too long")
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        names = {*_TENSORS, *_OPTIONAL_TENSORS} & set(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    meta = parse_json(header.get("meta", "{}"))
    _require(isinstance(meta, dict), "the header must be a group")
    return {**meta, **tensors, **{name: header[name] for name in ("format", "version") if name in header}}


def _parse(content: Mapping[str, Any]) -> Compression:
    import torch

    # 1. Read tensors and plain values, each with its type.
    tensors = {name: content[name] for name in _TENSORS}
    tensors |= {name: content[name] for name in _OPTIONAL_TENSORS if content.get(name) is not None}
    for name, value in tensors.items():
        _require(type(value) is torch.Tensor, f"{name} must be a tensor")
    plain = {name: content[name] for name in (*_READERS, "report") if name in content}
    check_plain(plain)
    values = record(_READERS, missing={"duration_s": None})(plain, "content")
    # 2. Check that tensors and plain values agree.
    rows, cols = values["grid"]
    clips = tuple(Clip(first, stop) for first, stop in values["clips"])
    features, frames = tensors["features"], len(values["timestamps_s"])
    _check_tensors(tensors, frames, rows, cols)
    _check_clips(clips, frames)
    total = frames * rows * cols
    _require(total <= _MOST_VISUAL_TOKENS, f"frames x grid must be {_MOST_VISUAL_TOKENS} tokens at most")
    # 3. Read the report, and check it against the tensors.
    report = RetentionReport.from_dict(content["report"])
    _check_report(report, total, frames, len(clips))
    _require(features.shape[1] == report.model.width, "features must have the width in the report")
    tokens = CompressedTokens(
        **{name: tensors.get(name) for name in (*_TENSORS, *_OPTIONAL_TENSORS)},  # type: ignore[arg-type]
        grid=(rows, cols),
        timestamps_s=tuple(values["timestamps_s"]),
        clips=clips,
        facts=values["facts"],
        duration_s=values["duration_s"],
    )
    return Compression(tokens, report)


def _check_report(report: RetentionReport, total: int, frames: int, clips: int) -> None:
    _require(report.visual_tokens == total, f"report.visual_tokens must be {total}")
    _require(len(report.frames) == frames, f"report.frames must be a list of {frames}")
    for index, frame in enumerate(report.frames):
        _require(frame.clip < clips, f"report.frames[{index}].clip must be a whole number in 0 .. {clips - 1}")
    names = (report.config.model.name or "", report.config.model.revision or "")
    _require(max(map(len, names)) <= _LONGEST_NAME, "the model's name is too long")


def _check_clips(clips: tuple[Clip, ...], frames: int) -> None:
    edges = [0, *(edge for clip in clips for edge in (clip.first, clip.stop)), frames]
    _require(edges[::2] == edges[1::2] and all(clip.stop > clip.first for clip in clips), "clips must tile the frames")


def _check_tensors(tensors: Mapping[str, Any], frames: int, rows: int, cols: int) -> None:
    features, deepstack = tensors["features"], tensors.get("deepstack")
    _require(features.ndim == 2 and str(features.dtype) in _FEATURE_DTYPES, "features must be floats [K, D]")
    _require(len(features) > 0, "there must be at least one token")
    for name, dtype in _PER_TOKEN.items():
        right = tensors[name].shape == features.shape[:1] and str(tensors[name].dtype) == f"torch.{dtype}"
        _require(right, f"{name} must be {dtype} [K]")
    if deepstack is not None:
        _require(deepstack.ndim == 3 and deepstack.shape[1:] == features.shape, "deepstack must be [layers, K, D]")
        _require(deepstack.dtype == features.dtype, "deepstack must have the dtype of features")
    for name in ("features", "mass", "deepstack"):
        _require(name not in tensors or bool(tensors[name].isfinite().all()), f"{name} must be finite")
    for name, limit in {"frame": frames, "row": rows, "col": cols, "role": len(Role)}.items():
        _require(bool(((tensors[name] >= 0) & (tensors[name] < limit)).all()), f"{name} must be in 0 .. {limit - 1}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
