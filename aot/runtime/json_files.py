"""Read JSON files up to a size limit; raise a ValueError for invalid JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["lines_of", "parse_json", "read_json"]

_MOST_BYTES = 16 * 2**20
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
