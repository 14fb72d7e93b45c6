"""Read JSON files up to a size limit, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aot.errors import ConfigError
from aot.runtime.plain_values import Reader

__all__ = ["lines_of", "listed_rows", "parse_json", "read_json"]

_MOST_BYTES = 16 * 2**20
_MOST_LISTED_BYTES = 2**20
_CHUNK = 2**20


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from a string or from UTF-8 bytes and return the value.

    Raises:
        ValueError: If `text` is not valid JSON, is nested too deeply, or repeats a key in an
            object.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_group)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON at character {error.pos + 1}") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    group = dict(pairs)
    if len(group) < len(pairs):
        raise ValueError("it has a key twice")
    return group


def read_json(path: Path) -> Any:
    """Parse a JSON file of at most 16 MiB and return the value.

    Raises:
        ValueError: If the file is longer, or its JSON is invalid (see `parse_json`).
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it is longer than {_MOST_BYTES // 2**20} MiB")
    return parse_json(text)


def lines_of(path: Path, most_bytes: int) -> Iterator[bytes]:
    r"""Yield the lines of the file `path` as bytes, with their newlines.

    Only \n ends a line, because JSON strings may contain other line separators.

    Raises:
        ValueError: If a line is longer than `most_bytes` bytes.
        OSError: If the file cannot be read.
    """
    with path.open("rb", buffering=_CHUNK) as file:
        number = 0
        while line := file.readline(most_bytes + 1):
            number += 1
            if len(line) > most_bytes:
                raise ValueError(f"line {number} is longer than {most_bytes // 2**20} MiB")
            yield line


def listed_rows(path: Path, read: Reader) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line number, values) for each line of the user's list `path` that is not blank.

    For an invalid line, the values are an error message instead.

    Raises:
        ConfigError: If the file cannot be read, is not UTF-8, or has a line of more than 1 MiB.
    """
    wants = "it needs one JSON object per line"
    try:
        for number, line in enumerate(lines_of(path, _MOST_LISTED_BYTES), 1):
            # A byte order mark, as Windows programs write it, can only be in the first line.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield number, _listed_row(text, read)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; {wants}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not a JSONL file ({error}); {wants}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _listed_row(text: str, read: Reader) -> dict[str, Any] | str:
    try:
        row = parse_json(text)
    except ValueError as error:
        return f"not a JSON object ({error})"
    if not isinstance(row, dict):
        return "not a JSON object"
    try:
        values: dict[str, Any] = read(row, "")
    except ValueError as error:
        return str(error)
    return values
