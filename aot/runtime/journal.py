"""Store results on disk as they arrive, a JSON object per line, so that a run can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aot.errors import ConfigError, OutputError
from aot.runtime.json_files import lines_of, parse_json, read_json
from aot.runtime.plain_values import Reader, check_plain
from aot.text import as_utf8

__all__ = ["append_rows", "check_same", "differences", "holds_rows", "lines_of_rows", "read_description", "read_rows"]

_MOST_LINE_BYTES = 4 * 2**20
_MOST_DIFFERENCES = _MOST_PROBLEMS = 5
_BEGIN_AGAIN = "pass --restart to discard the answers and start over"

Row = TypeVar("Row")


def holds_rows(path: Path) -> bool:
    """Return whether `path` is a file that is not empty."""
    return path.is_file() and path.stat().st_size > 0


def read_description(path: Path, read: Reader) -> dict[str, Any]:
    """Return the content of the JSON file `path`, which describes the rows next to it.

    Raises:
        ConfigError: If the file is missing, damaged, or from another version.
    """
    try:
        found = read_json(path)
        check_plain(found)
        description: dict[str, Any] = read(found, "")
    except FileNotFoundError:
        raise ConfigError(f"{path}, which describes the answers next to it, is missing; {_BEGIN_AGAIN}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {_BEGIN_AGAIN}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({_shortened(error)}); {_BEGIN_AGAIN}") from None
    return description


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the dotted paths at which the nested values `one` and `other` differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = {*one, *other}
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{path}.{key}".strip("."))]
    return [] if one == other else [path]


def check_same(differing: Iterable[str], folder: Path) -> None:
    """Check that this run and the run whose rows are in `folder` differ in no value.

    Raises:
        ConfigError: If `differing`, the names of values that differ, is not empty.
    """
    names = sorted(set(differing))
    if names:
        listed = [*names[:_MOST_DIFFERENCES], *["..."] * (len(names) > _MOST_DIFFERENCES)]
        raise ConfigError(
            f"{folder} holds answers of a run with different values of {', '.join(listed)}; "
            "choose another folder with -o, or pass --restart to discard them"
        )


def read_rows(path: Path, read: Callable[[Any], Row], key: Callable[[Row], Hashable], *, first_name: str) -> list[Row]:
    """Return all rows of the file `path`; `key` identifies the question that a row answers.

    An incomplete last line, as a killed process leaves it, is removed from the file.

    Args:
        path: the file.
        read: reads the plain values of a line, or raises a ValueError.
        key: returns what must be unique in the file.
        first_name: the name of the first value of every row, which is text.

    Raises:
        ConfigError: If a line is damaged, or two rows have the same key.
        OutputError: If the file cannot be repaired.
    """
    begins = b'{"%s": "' % first_name.encode()
    found: dict[Hashable, tuple[int, Row]] = {}
    problems: list[str] = []
    line = b"\n"
    try:
        for count, line in enumerate(lines_of(path, _MOST_LINE_BYTES), 1):
            if not line.strip() or _is_torn(line, begins):
                continue
            try:
                row = read(parse_json(line.strip()))
            except ValueError as error:
                problems.append(f"line {count}: {_shortened(error)}")
                continue
            first, _ = found.setdefault(key(row), (count, row))
            if first != count:
                problems.append(f"line {count}: it repeats the question of line {first}")
    except ValueError as error:
        problems.append(str(error))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {_BEGIN_AGAIN}") from error
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        listed = "; ".join(problems[:_MOST_PROBLEMS]) + more
        remedy = f"delete such lines to ask their questions again, or {_BEGIN_AGAIN}"
        raise ConfigError(f"{path} is damaged ({listed}); {remedy}")
    if not line.endswith(b"\n"):
        _end(path, line, begins)
    return [row for _, row in found.values()]


def lines_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one line of JSON per row; replace what UTF-8 cannot encode, as in names of files."""
    return as_utf8("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line per row to the file `path`, in a single write; see `lines_of_rows`.

    Raises:
        OutputError: If the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(lines_of_rows(rows))
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _is_torn(line: bytes, begins: bytes) -> bool:
    """Return whether `line` is an incomplete row, as a killed process leaves it."""
    is_row = begins.startswith(line) or line.startswith(begins)
    if line.endswith(b"\n") or not is_row or any(byte < ord(" ") for byte in line):
        return False
    try:
        json.JSONDecoder().raw_decode(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False  # a complete row, perhaps with more after it


def _end(path: Path, last: bytes, begins: bytes) -> None:
    """Append a newline to the file, or remove the last line `last` if this line is incomplete."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if _is_torn(last, begins):
                file.truncate(end - len(last))
            else:
                file.write(b"\n")
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _shortened(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]
