"""Read a `.pt` file of plain values and tensors without executing code.

PyTorch's own reader is not used: with overlapping zip entries or with calls of functions, a small
file can make it allocate any amount of memory. This reader refuses such files without reading
their data.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MOST_PLAIN_BYTES", "read_pt"]

MOST_PLAIN_BYTES = 16 * 2**20
_MOST_OPERATIONS = 3_000_000
_LONGEST_DIRECTORY = 2**20
_END, _LOCAL, _DESCRIPTOR = 22, 30, 24  # bytes of the zip format's fixed parts (APPNOTE.TXT, 4.3)
_END_OF_LARGE = 56 + 20 + _END  # the records at the end of a zip64 archive
_STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch IntStorage": "int32",
    "torch ByteStorage": "uint8",
}
_NAMES = {*_STORAGES, "torch._utils _rebuild_tensor_v2", "collections OrderedDict"}


class _Name(NamedTuple):
    """The name of a class or function in a pickle; it is never imported."""

    name: str


class _Storage(NamedTuple):
    dtype: str
    entry: str


class _StoredTensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pt(path: Path) -> Any:
    """Return the content of a `.pt` file: plain values, or a dict of plain values and CPU tensors.

    Raises:
        Exception: If the file is damaged or holds other data. The type of exception varies.
    """
    with path.open("rb") as file:
        # 1. The archive: entries that do not overlap, so that no byte is read twice.
        _check_end(file)
        with zipfile.ZipFile(file) as archive:
            _check_directory(file, archive)
            pickled = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickled) != 1 or pickled[0].file_size > MOST_PLAIN_BYTES:
                raise ValueError("it must have one entry data.pkl, of 16 MiB at most")
            # 2. The pickle: plain values, and references to storages.
            content = _Values().read(archive.read(pickled[0]))
            if not isinstance(content, dict):
                return content
            # 3. The tensors.
            folder = pickled[0].filename.removesuffix("data.pkl")
            storages: dict[_Storage, Tensor] = {}
            return {
                name: _tensor(archive, folder, value, storages) if type(value) is _StoredTensor else value
                for name, value in content.items()
            }


def _check_end(file: BinaryIO) -> None:
    """Check that the zip directory is short and that the archive ends at the end of the file."""
    file.seek(max(0, file.seek(0, 2) - _END_OF_LARGE))
    tail = file.read()
    signature, length = struct.unpack("<4s8xI", tail[-_END : -_END + 16])
    if tail[-_END - 20 : -_END - 16] == b"PK\6\7":  # zip64 has the length in a separate record
        (length,) = struct.unpack("<Q", tail[-_END_OF_LARGE + 40 : -_END_OF_LARGE + 48])
    if signature != b"PK\5\6" or length > _LONGEST_DIRECTORY:
        raise ValueError("it does not end like a zip archive with few entries")


def _check_directory(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Check that entries are uncompressed, differ in name, do not overlap and leave no gaps."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("its directory lists a name twice")
    end = slack = 0
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("it is compressed")
        if not end <= entry.header_offset <= end + slack:
            raise ValueError("its entries overlap, or have something between them")
        file.seek(entry.header_offset + _LOCAL - 4)
        end = entry.header_offset + _LOCAL + sum(struct.unpack("<HH", file.read(4))) + entry.file_size
        slack = _DESCRIPTOR
    if not end <= archive.start_dir <= end + slack:
        raise ValueError("its entries overlap its directory, or have something between them")


def _tensor(archive: zipfile.ZipFile, folder: str, stored: _StoredTensor, storages: dict[_Storage, Tensor]) -> Tensor:
    """Return the tensor `stored`; `storages` keeps each storage, so that it is read only once."""
    import torch

    if stored.storage not in storages:
        entry = archive.getinfo(folder + "data/" + stored.storage.entry)
        stored_bytes = bytearray(archive.read(entry))  # checked by its CRC
        content = (
            torch.frombuffer(stored_bytes, dtype=torch.uint8) if stored_bytes else torch.zeros(0, dtype=torch.uint8)
        )
        storages[stored.storage] = content.view(getattr(torch, stored.storage.dtype))
    tensor = storages[stored.storage].as_strided(stored.size, stored.stride, stored.offset)
    if not tensor.is_contiguous():
        raise ValueError("a tensor is not stored contiguously")
    return tensor


class _Values:
    """Build the values of a pickle; accept only the operations for plain values and tensors."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, pickled: bytes) -> Any:
        for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > _MOST_OPERATIONS:
                raise ValueError("it has too many values")
            if operation.name == "STOP":
                break
            self._do(operation.name, argument)
        (value,) = self._stack
        return value

    def _do(self, operation: str, argument: Any) -> None:
        stack = self._stack
        match operation:
            case "PROTO":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[operation]())
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(operation[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if operation == "APPEND" else self._since_mark()
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if operation == "SETITEM" else self._since_mark()
                dict.update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL" if argument in _NAMES:
                stack.append(_Name(argument))
            case "BINPERSID":
                _, kind, entry, *_ = stack.pop()
                stack.append(_Storage(_STORAGES[kind.name], entry))
            case "REDUCE":
                stack.append(_called(*self._last(2)))
            case _:
                raise ValueError("it holds something other than plain tensors")

    def _last(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count or (self._marks and self._marks[-1] > len(self._stack) - count):
            raise ValueError("it ends early")
        del self._stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items


def _called(function: _Name, arguments: tuple[Any, ...]) -> Any:
    """Return the result of a call in a pickle: a tensor, or None for an empty dict of hooks."""
    if function == _Name("collections OrderedDict") and arguments == ():
        return None
    if function == _Name("torch._utils _rebuild_tensor_v2"):
        storage, offset, size, stride, *_ = arguments
        if type(storage) is _Storage and all(type(n) is int for n in (offset, *size, *stride)):
            return _StoredTensor(storage, offset, size, stride)
    raise ValueError("it holds something other than plain tensors")
