"""Compressed tokens on disk: `.pt` (a dict torch loads with weights_only=True) or `.safetensors`.

Both hold the tensors of `CompressedTokens` under their own names and, as plain values, the grid,
clips, timestamps and the whole `RetentionReport`: enough to answer questions later, to draw what was
kept, and to do it again. Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aot.config import Config, build_config
from aot.errors import ConfigError, TokensFileError
from aot.files import write_whole
from aot.paths import path_kind
from aot.report import RetentionReport
from aot.text import is_utf8
from aot.types import Clip, CompressedTokens, Role

__all__ = ["SUFFIXES", "TokensFile", "check_suffix", "is_tokens_file", "load_tokens", "save_tokens"]

SUFFIXES = (".pt", ".safetensors")
_FORMAT = "aot-tokens"
_VERSION = 1
_MOST_NODES = 1_000_000
_FEATURE_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, RuntimeError, ConfigError)
_PER_TOKEN = {"frame": "int32", "row": "int32", "col": "int32", "role": "uint8", "mass": "float32"}


@dataclass(frozen=True, slots=True)
class TokensFile:
    """Tokens, and the report (as plain values) and the configuration of the run that made them."""

    tokens: CompressedTokens
    report: Mapping[str, Any]
    config: Config


def is_tokens_file(path: str | Path) -> bool:
    """Whether the name says so; content is checked on loading."""
    return Path(path).suffix in SUFFIXES


def check_suffix(path: Path) -> None:
    """
    Raises:
        ConfigError: the name ends in neither .pt nor .safetensors, or the library of the latter does not take it.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path.name} must end in {' or '.join(SUFFIXES)}, which also chooses the format")
    if path.suffix == ".safetensors" and not is_utf8(str(path)):
        raise ConfigError(f"{path} is not UTF-8, as names of .safetensors files are; choose another, or one in .pt")


def save_tokens(
    path: str | Path, tokens: CompressedTokens, report: RetentionReport, *, overwrite: bool = False
) -> None:
    """Write the file whole or not at all.

    Raises:
        OutputError: the file exists and `overwrite` is false, or it cannot be written.
    """
    import torch

    path = Path(path)
    check_suffix(path)
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

    def write(temporary: Path) -> None:
        if path.suffix == ".pt":
            torch.save({"format": _FORMAT, "version": _VERSION, **tensors, **meta}, temporary)
        else:
            header = {"format": _FORMAT, "version": str(_VERSION), "meta": json.dumps(meta)}
            _save_safetensors(tensors, temporary, header)

    write_whole(path, write, overwrite=overwrite)


def _save_safetensors(tensors: dict[str, Any], path: Path, header: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from error


def load_tokens(path: str | Path) -> TokensFile:
    """Read a tokens file and check that it is whole.

    Raises:
        TokensFileError: there is no such file, or it is damaged, not ours, or holds more than plain data.
    """
    path = Path(path)
    if path_kind(path) != "file":
        raise TokensFileError(f"there is no tokens file {path}; make one with: aot compress VIDEO -o {path.name}")
    content = _read_pt(path) if path.suffix == ".pt" else _read_safetensors(path)
    if content.get("format") != _FORMAT:
        raise TokensFileError(f"{path} was not written by aot; make a tokens file with: aot compress VIDEO -o FILE.pt")
    try:
        version = int(content["version"])
        if version <= _VERSION:
            return _parse(content)
    except _DAMAGE as error:
        raise TokensFileError(f"{path} is damaged ({error}); compress the video again") from error
    raise TokensFileError(f"{path} was written by a newer aot (format {version}); upgrade aot")


def _read_pt(path: Path) -> dict[str, Any]:
    import pickle
    import warnings
    import zipfile

    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch stores uncompressed; anything else may be a bomb
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        _require(stored, "it is compressed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TokensFileError(
            f"{path} is not a tokens file: it is damaged or holds something other than plain tensors, "
            "and was not opened"
        ) from error
    except Exception as error:
        raise TokensFileError(f"{path} is damaged or not a tokens file; compress the video again") from error
    if not isinstance(content, dict) or _nodes(content) > _MOST_NODES:
        return {}
    return content


def _nodes(value: Any, budget: int = _MOST_NODES) -> int:
    """How many values a structure holds, counting shared ones each time; stops above the budget."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    count = 1
    for child in children:
        if count > budget:
            break
        count += _nodes(child, budget - count)
    return count


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not is_utf8(str(path)):
        raise TokensFileError(f"{path} is not UTF-8, as names of .safetensors files are; rename it")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(header.get("meta", "{}"))
        _require(isinstance(meta, dict), "the header must be a group")
    except (SafetensorError, OSError, *_DAMAGE) as error:
        raise TokensFileError(f"{path} is damaged or not a tokens file; compress the video again") from error
    return {**tensors, **meta, **{name: header[name] for name in ("format", "version") if name in header}}


def _parse(content: Mapping[str, Any]) -> TokensFile:
    features, report = content["features"], content["report"]
    for name in ("features", *_PER_TOKEN):
        _require(content[name].is_contiguous(), f"{name} must be stored whole")
    _require(len(features) > 0, "there must be a token")
    missing = {field.name for field in fields(RetentionReport)} - set(report)
    _require(not missing, f"the report lacks {', '.join(sorted(missing))}")
    _require(all(isinstance(notice, str) for notice in report["notices"]), "notices must be text")
    timestamps = tuple(float(t) for t in content["timestamps_s"])
    rows, cols = (int(side) for side in content["grid"])
    clips = tuple(Clip(int(first), int(stop)) for first, stop in content["clips"])
    edges = [0, *(edge for clip in clips for edge in (clip.first, clip.stop)), len(timestamps)]
    _require(features.ndim == 2 and str(features.dtype) in _FEATURE_DTYPES, "features must be floats [K, D]")
    _require(bool(features.isfinite().all()), "features must be finite")
    _require(all(map(math.isfinite, timestamps)), "timestamps must be finite")
    _require(edges[::2] == edges[1::2] and all(clip.stop > clip.first for clip in clips), "clips must tile the frames")
    _require(features.shape[1] == report["model"]["width"], "features are not as wide as the report says")
    for name, dtype in _PER_TOKEN.items():
        right = content[name].shape == features.shape[:1] and str(content[name].dtype) == f"torch.{dtype}"
        _require(right, f"{name} must be {dtype} [K]")
    _require(bool(content["mass"].isfinite().all()), "mass must be finite")
    for name, limit in {"frame": len(timestamps), "row": rows, "col": cols, "role": len(Role)}.items():
        _require(bool(((content[name] >= 0) & (content[name] < limit)).all()), f"{name} must be in 0 .. {limit - 1}")
    duration, deepstack = content.get("duration_s"), content.get("deepstack")
    _require(duration is None or math.isfinite(duration), "the duration must be finite")
    if deepstack is not None:
        _require(deepstack.ndim == 3 and deepstack.shape[1:] == features.shape, "deepstack must be [layers, K, D]")
        _require(deepstack.is_contiguous() and deepstack.dtype == features.dtype, "deepstack must be as features are")
        _require(bool(deepstack.isfinite().all()), "deepstack must be finite")
    tokens = CompressedTokens(
        **{name: content[name] for name in ("features", *_PER_TOKEN)},
        grid=(rows, cols),
        timestamps_s=timestamps,
        clips=clips,
        facts=dict(content["facts"]),
        duration_s=None if duration is None else float(duration),
        deepstack=deepstack,
    )
    return TokensFile(tokens, report, build_config(report["config"]))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
