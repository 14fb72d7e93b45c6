"""Damaged and crafted tokens files, through the commands that read them."""

from __future__ import annotations

import builtins
import copy
import io
import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.support import make_videos
from tests.support.commands import Commands
from tests.support.fuzz_case import Step
from tests.support.mutations import mutated
from tests.support.plain_values import Called, places, put, strange_value

__all__ = ["TokensFiles"]

_RECORDS = re.compile(b"PK(?:\1\2|\3\4|\5\6)")
_METHODS = ("aot", "uniform", "standout", "none", "random+fastv")


@dataclass
class TokensFiles:
    """Real files in both formats, their bytes or their structure changed."""

    name: str = "tokens"
    files: dict[str, bytes] = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        """Compress one clip with several methods into both formats."""
        clip = make_videos.write(folder / "clip.mp4", 8, size=(48, 32))
        commands = Commands()
        for method in _METHODS:
            outer, _, inner = method.partition("+")
            for ending in ("pt", "safetensors"):
                line = ["compress", str(clip), "-o", str(folder / f"{method}.{ending}"), "--model", "shapes"]
                line += ["--frames", "2", "--ratio", "0.5", "--method", outer, *(["--inner", inner] if inner else [])]
                made = commands.run(line)
                assert made.code == 0, made.err
        clip.unlink()

    def read(self, folder: Path) -> None:
        """Take the files that `make` wrote."""
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def steps(self, random: Random, folder: Path, hub: str) -> list[Step]:
        """Write one file, and a model folder with code for it to name; return the commands that read it."""
        name = random.choice(list(self.files))
        _write_trap(folder)
        change: Callable[[TokensFiles, Random, Path], bytes] = random.choices(
            (TokensFiles._bytes, TokensFiles._values, TokensFiles._container, TokensFiles._crafted), (30, 40, 20, 10)
        )[0]
        path = folder / name
        path.write_bytes(self.files[name])
        path.write_bytes(change(self, random, path))
        inspect = ("inspect", path.name, *random.choice(((), ("--json",))))
        named = random.choice(((), ("--model", "shapes"), ("--model", "shapes")))
        ask = ("ask", path.name, "what moves?", *named, "--max-new-tokens", "3", *random.choice(((), ("--json",))))
        return [Step(inspect, inputs=(path,)), Step(ask, inputs=(path,), needs_success=random.random() < 0.8)]

    def _bytes(self, random: Random, path: Path) -> bytes:
        return mutated(random, path.read_bytes(), list(self.files.values()))

    def _values(self, random: Random, path: Path) -> bytes:
        """Other values in the right places."""
        content = _read(path)
        for _ in range(random.choice((1, 1, 1, 1, 2, 4))):
            way = random.choice(list(places(content)))
            try:
                _change(random, content, way)
            except (KeyError, IndexError, TypeError):
                continue  # the change before took the place away
        return _written(path, content)

    def _container(self, random: Random, path: Path) -> bytes:
        """Whole entries of the archive, or the header, damaged below what check sums cover."""
        return _other_archive(random, path) if path.suffix == ".pt" else _other_header(random, path)

    def _crafted(self, random: Random, path: Path) -> bytes:
        """A pickle that calls, in the archive or alone; of either ending."""
        payload = _payload(random, path.parent / "canary")
        if random.random() < 0.3:
            return pickle.dumps(payload, protocol=random.choice((0, 2, 4, 5)))
        content = _read(path)
        way = random.choice([(), *places(content)])
        if way:
            put(content, way, payload)
        return _archive(random, content if way else payload)


def _write_trap(folder: Path) -> None:
    """A folder that a file may name as its model, with code that a careless loader would run."""
    trap = folder / "evil" / "model"
    trap.mkdir(parents=True)
    code = f"import os; os.mkdir({str(folder / 'canary' / 'trap')!r})\n"
    (trap / "modeling.py").write_text(code)
    (trap / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "modeling.Evil"}}))


def _read(path: Path) -> dict[str, Any]:
    import torch
    from safetensors import safe_open

    if path.suffix == ".pt":
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return content
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {**tensors, **json.loads(header["meta"]), "format": header["format"], "version": header["version"]}


def _change(random: Random, content: dict[str, Any], way: tuple[Any, ...]) -> None:
    import torch

    *before, last = way
    group = content
    for part in before:
        group = group[part]
    value = group[last]
    form = random.random()
    if form < 0.12 and isinstance(group, dict):
        del group[last]
    elif form < 0.2 and isinstance(group, dict):
        group[random.choice(("extra", "", "\x1b[31m", "x" * 300))] = copy.deepcopy(value)
    elif isinstance(value, torch.Tensor):
        group[last] = _other_tensor(random, value)
    elif form < 0.5 and type(value) in (int, float):
        group[last] = value * random.choice((0, -1, 2, 1e9)) + random.choice((0, 1, -1))
    elif form < 0.6 and isinstance(value, list) and value:
        group[last] = random.choice((value[:-1], value * 2, value[::-1], value * 2000))
    else:
        group[last] = strange_value(random)


def _other_tensor(random: Random, value: Any) -> Any:
    import torch

    changes: tuple[Callable[[], Any], ...] = (
        lambda: value[:-1], lambda: value[:0], lambda: torch.cat([value, value]), lambda: value[None],
        lambda: value.to(random.choice((torch.float64, torch.int64, torch.uint8, torch.float16, torch.bfloat16))),
        lambda: value[:1].expand(value.shape), lambda: torch.zeros(1).expand(10**6), lambda: value.flip(0),
        lambda: value * 0 + 255, lambda: (value * 0 - 1), lambda: value.float() * float("nan"), lambda: value.bool(),
        lambda: value.flatten().double() * 1e30, lambda: torch.zeros(()), lambda: torch.zeros(1 << 20),
        lambda: strange_value(random), lambda: value.to_sparse(), lambda: torch.nn.Parameter(value.float()),
    )  # fmt: skip
    return random.choice(changes)()


def _written(path: Path, content: dict[str, Any]) -> bytes:
    """The bytes of a file with this content; of a JSON header only what JSON can hold."""
    import torch
    from safetensors.torch import save

    if path.suffix == ".pt":
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()
    tensors = {
        name: value.contiguous().clone().detach()
        for name, value in content.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    plain = {name: value for name, value in content.items() if not isinstance(value, torch.Tensor)}
    meta = {name: value for name, value in plain.items() if name not in ("format", "version")}
    header = {
        name: str(plain[name]).encode("utf-8", "replace").decode() for name in ("format", "version") if name in plain
    }
    return save(tensors, metadata=header | {"meta": json.dumps(meta)})


def _other_archive(random: Random, path: Path) -> bytes:
    """The same entries with right check sums: their bytes changed, compressed, doubled, left out or renamed."""
    stream, form = io.BytesIO(), random.choice(("pickle", "pickle", "bytes", "deflate", "double", "leave", "rename"))
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        entries = old.infolist()
        chosen = random.choice(entries)
        for entry in entries:
            data, name, kind = old.read(entry), entry.filename, zipfile.ZIP_STORED
            if form == "pickle" and name.endswith("data.pkl"):
                data = mutated(random, data, [data])
            if entry is chosen:
                data = mutated(random, data, [data]) if form == "bytes" else data
                kind = zipfile.ZIP_DEFLATED if form == "deflate" else kind
                data = data + bytes(1 << 22) if form == "deflate" else data
                name = (
                    random.choice(("../../x", "/etc/x", "archive/data.pkl", name + "\0")) if form == "rename" else name
                )
                if form == "leave":
                    continue
            for _ in range(2 if form == "double" and entry is chosen else 1):
                new.writestr(name, data, kind)
    data = stream.getvalue()
    return _other_directory(random, data) if random.random() < 0.3 else data


def _other_directory(random: Random, data: bytes) -> bytes:
    """Numbers of the directory, or of the record at the end, changed."""
    changed, names = bytearray(data), [found.start() for found in _RECORDS.finditer(data)]
    for _ in range(random.choice((1, 2, 4))):
        place = random.choice(names) + 2 * random.randrange(2, 22)
        number = random.choice((0, 1, 8, 0xFFFF, 0xFFFFFFFF, random.getrandbits(32), len(data)))
        struct.pack_into("<I", changed, min(place, len(data) - 4), number)
    return bytes(changed)


def _other_header(random: Random, path: Path) -> bytes:
    """Another header over the same tensors: names, types, shapes and offsets that are not theirs."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    for _ in range(random.choice((1, 1, 3))):
        way = random.choice(list(places(header)))
        value = random.choice(("F64", "BF16", "U8", [1, 2], [0, 2**62], [2**40, 2**40], -1, strange_value(random)))
        try:
            put(header, way, value)
        except (KeyError, IndexError, TypeError):
            continue
    text = json.dumps(header).encode()
    claimed = random.choice((len(text), len(text), len(text), 0, 1, 2**63, 2**40, 2**24, len(data)))
    return struct.pack("<Q", claimed) + text + data[8 + length :]


def _payload(random: Random, canary: Path) -> Any:
    """Something that leaves a mark in the folder `canary` if it is ever called, or takes much."""
    mark = str(canary / "called")
    calls: tuple[Any, ...] = (
        Called(os.system, (f"touch {mark}",)), Called(os.mkdir, (mark,)), Called(open, (mark, "w")),
        Called(builtins.exec, (f"open({mark!r}, 'w')",)), Called(builtins.eval, (f"open({mark!r}, 'w')",)),
        Called(subprocess.Popen, (["touch", mark],)), Called(pathlib.Path.touch, (pathlib.Path(mark),)),
        Called(builtins.getattr, ("", "format")), Called(bytearray, (10**10,)), Called(list, (range(10**9),)),
        Called(dict, (), {"format": 1}), Called(io.FileIO, (mark, "w")), Called(builtins.__import__, ("this",)),
    )  # fmt: skip
    return random.choice(calls)


def _archive(random: Random, content: Any) -> bytes:
    """An archive as torch writes one, around the pickle of anything."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(content))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _pickled(content: Any) -> bytes:
    import torch

    plain = (
        {name: value for name, value in content.items() if not isinstance(value, torch.Tensor)}
        if isinstance(content, dict)
        else content
    )
    return pickle.dumps(plain, protocol=2)
