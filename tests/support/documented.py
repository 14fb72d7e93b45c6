"""Compare a JSON object with the table in `aot_cli.output.schemas`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aot_cli.output.schemas import OBJECTS, PARTS

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "any": object,
}  # fmt: skip


def problems(found: Mapping[str, Any]) -> list[str]:
    """Return every difference between an object and the documentation of its schema."""
    schema = found.get("schema")
    if schema not in OBJECTS:
        return [f"there is no schema {schema!r}"]
    rest = {name: value for name, value in found.items() if name != "schema"}
    return list(_of_keys(rest, OBJECTS[schema], str(schema)))


def _of_keys(found: Any, keys: Any, where: str) -> Iterator[str]:
    if not isinstance(found, dict):
        yield f"{where} is a {type(found).__name__}"
        return
    known = {key.name: key for key in keys}
    yield from (f"{where}.{name} is not documented" for name in found if name not in known)
    for name, key in known.items():
        if name in found:
            yield from _of_value(found[name], key.type, f"{where}.{name}")
        elif not key.optional:
            yield f"{where}.{name} is missing"


def _of_value(found: Any, kind: str, where: str) -> Iterator[str]:
    if kind.endswith("?"):
        if found is not None:
            yield from _of_value(found, kind[:-1], where)
    elif kind[0] in "[{":
        if not isinstance(found, list if kind[0] == "[" else dict):
            yield f"{where} is a {type(found).__name__}"
            return
        for name, each in enumerate(found) if isinstance(found, list) else found.items():
            yield from _of_value(each, kind[1:-1], f"{where}.{name}")
    elif kind in PARTS:
        yield from _of_keys(found, PARTS[kind], where)
    elif not isinstance(found, _KINDS[kind]) or (isinstance(found, bool) and kind in ("integer", "number")):
        yield f"{where} is {found!r}, no {kind}"
