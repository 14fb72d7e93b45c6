"""JSON that comes back from files: nothing is read beyond a limit, and what is no JSON is a ValueError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["lines_of", "parse_json", "read_json"]

_MOST_BYTES = 16 * 2**20
_CHUNK = 2**20


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; of bytes, in UTF-8.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or gives a name twice.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_group)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON from character {error.pos + 1} on") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    group = dict(pairs)
    if len(group) < len(pairs):
        raise ValueError("it gives a name twice")
    return group


def read_json(path: Path) -> Any:
    """Return the value of a JSON file of 16 MiB at most.

    Raises:
        ValueError: as `parse_json`, or it is longer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it is longer than {_MOST_BYTES // 2**20} MiB")
    return parse_json(text)


def lines_of(path: Path, most_bytes: int) -> Iterator[bytes]:
    r"""Yield the lines of a file, each with its newline, the last one as it is. Only \n is one: JSON allows other
    separators within a text.

    Raises:
        ValueError: a line has more than `most_bytes`.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=_CHUNK) as file:
        number = 0
        while line := file.readline(most_bytes + 1):
            number += 1
            if len(line) > most_bytes:
                raise ValueError(f"line {number} is longer than {most_bytes // 2**20} MiB")
            yield line
