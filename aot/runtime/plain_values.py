"""Readers of plain values from files.

A reader takes a value and its key. It returns the typed value, or raises a ValueError that names
the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aot.text import is_utf8

__all__ = [
    "Reader", "check_plain", "each", "flag", "free", "named", "number", "optional", "record", "text", "utf8", "whole",
]  # fmt: skip

Reader = Callable[[Any, str], Any]
_MOST_VALUES = 1_000_000
_DEEPEST = 12
_LARGEST = 2**63


def check_plain(value: Any) -> None:
    """Check that `value` holds only plain values, at most a million, nested at most 12 deep.

    Plain values are text, numbers, booleans, None, and lists, tuples and dicts of plain values. If
    an object occurs several times in `value`, each occurrence counts.

    Raises:
        ValueError: If the check fails.
    """
    _count(value, _MOST_VALUES, _DEEPEST)


def _count(value: Any, budget: int, depth: int) -> int:
    """Return `budget` minus the number of values in `value`, which itself counts as one."""
    kind = type(value)
    if kind is dict and not all(type(key) is str for key in value):
        raise ValueError("the keys of its values must be text")
    if kind is int and not -_LARGEST < value < _LARGEST:
        raise ValueError("a whole number in it is too large")
    if kind not in (dict, list, tuple):
        if value is not None and kind not in (bool, int, float, str):
            raise ValueError("its values must be plain (text, numbers, true, false or null)")
        return budget - 1
    for child in value.values() if kind is dict else value:
        if budget <= 0 or depth <= 0:
            raise ValueError("it has too many or too deeply nested values")
        budget = _count(child, budget, depth - 1)
    return budget - 1


def _below(key: str, name: str) -> str:
    """Return the full key of `name` in the group `key`, which is "" for the outermost group."""
    return f"{key}.{name}" if key else name


def _require(holds: bool, key: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{key} must be {what}")


def text(value: Any, key: str) -> str:
    """Read a string."""
    _require(type(value) is str, key, "text")
    return str(value)


def utf8(value: Any, key: str) -> str:
    """Read a string without lone surrogates, which JSON allows but UTF-8 cannot encode."""
    _require(type(value) is str and is_utf8(value), key, "text")
    return str(value)


def flag(value: Any, key: str) -> bool:
    """Read a boolean."""
    _require(type(value) is bool, key, "true or false")
    return bool(value)


def whole(least: int = 0, most: int = 2**53) -> Reader:
    """Return a reader of integers in `least` .. `most`; JSON is exact up to 2^53."""

    def read(value: Any, key: str) -> int:
        _require(
            type(value) is int and least <= value <= most,
            key,
            f"{least}" if least == most else f"a whole number in {least} .. {most}",
        )
        return int(value)

    return read


def number(least: float = -math.inf, most: float = math.inf) -> Reader:
    """Return a reader of finite numbers in `least` .. `most`."""

    def read(value: Any, key: str) -> float:
        bounds = f" in {least:g} .. {most:g}" if most < math.inf else f", {least:g} or more"
        rule = "a finite number" + (bounds if least > -math.inf else "")
        is_number = type(value) is float or (type(value) is int and -_LARGEST < value < _LARGEST)
        _require(is_number and math.isfinite(value) and least <= value <= most, key, rule)
        return float(value)

    return read


def free(value: Any, key: str) -> Any:
    """Read any plain value; infinite and NaN numbers become None, since JSON has neither."""
    if type(value) is dict:
        return {name: free(child, _below(key, name)) for name, child in value.items()}
    if type(value) in (list, tuple):
        return [free(child, key) for child in value]
    return None if type(value) is float and not math.isfinite(value) else value


def optional(reader: Reader) -> Reader:
    """Return a reader that also accepts None."""
    return lambda value, key: None if value is None else reader(value, key)


def each(reader: Reader, length: int | None = None) -> Reader:
    """Return a reader of lists of `length` values, or of any length if `length` is None."""

    def read(value: Any, key: str) -> list[Any]:
        _require(type(value) in (list, tuple), key, "a list")
        _require(length is None or len(value) == length, key, f"a list of {length}")
        return [reader(child, f"{key}[{index}]") for index, child in enumerate(value)]

    return read


def named(reader: Reader) -> Reader:
    """Return a reader of groups (dicts) with any names; `reader` reads each value."""

    def read(value: Any, key: str) -> dict[str, Any]:
        _require(type(value) is dict, key, "a group")
        return {name: reader(child, _below(key, repr(name[:40]))) for name, child in value.items()}

    return read


def record(
    readers: Mapping[str, Reader],
    missing: Mapping[str, Any] | None = None,
    absent: Sequence[str] = (),
    others: Reader | None = None,
    *,
    exact: bool = False,
) -> Reader:
    """Return a reader of groups (dicts) with known names.

    Args:
        readers: the reader of each name. A name is required unless it is in `missing` or `absent`.
        missing: by name, the default value if the group lacks the name.
        absent: optional names without a default value.
        others: the reader of all other names. If None, other names are left out.
        exact: whether other names raise a ValueError.
    """

    def read(value: Any, key: str) -> dict[str, Any]:
        _require(type(value) is dict, key, "a group")
        strange = [name for name in value if name not in readers] if exact else []
        if strange:
            raise ValueError(f"{_below(key, repr(strange[0][:40]))} is not known")
        found = {**(missing or {}), **value}
        for name in readers:
            _require(name in found or name in absent, _below(key, name), "given")
        known = {name: reader(found[name], _below(key, name)) for name, reader in readers.items() if name in found}
        more = {name: child for name, child in found.items() if name not in readers} if others else {}
        return known | {name: others(child, _below(key, repr(name[:40]))) for name, child in more.items() if others}

    return read
