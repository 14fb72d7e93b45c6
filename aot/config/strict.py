"""Build frozen dataclasses from nested settings, and report all problems together."""

from __future__ import annotations

import re
import reprlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aot.config.notations import Notation
from aot.errors import ConfigError, Problem
from aot.text import did_you_mean

__all__ = [
    "Settings",
    "build_settings",
    "choices",
    "has_notation",
    "merge_settings",
    "nested",
    "plain_type",
    "type_in_words",
]

Settings = Mapping[str, Any]
T = TypeVar("T")
_REJECTED = object()


def merge_settings(*layers: Settings) -> dict[str, Any]:
    """Merge nested mappings key by key; later `layers` override earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                merged[key] = merge_settings(merged[key], value)
            else:
                merged[key] = value
    return merged


def nested(values: Mapping[str, object]) -> Settings:
    """Return nested settings; `values` maps dotted paths to values."""
    return merge_settings(*(_nest(path, value) for path, value in values.items()))


def _nest(path: str, value: object) -> Settings:
    first, _, rest = path.partition(".")
    return {first: _nest(rest, value) if rest else value}


def build_settings(cls: type[T], settings: Settings, path: str = "") -> T:
    """Build the dataclass `cls` from `settings`; messages put `path` before names of settings.

    Raises:
        ConfigError: If a key is unknown or a value is wrong. The error lists all problems.
    """
    problems: list[Problem] = []
    built = _build(cls, settings, path, problems)
    if problems:
        raise ConfigError(*problems)
    return built  # type: ignore[no-any-return]


def _build(cls: type[T], settings: Settings, path: str, problems: list[Problem]) -> Any:
    hints = get_type_hints(cls, include_extras=True)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in settings:
        if key not in names:
            problems.append(_unknown(cls, path, key, names))
    given = {name: _convert(hints[name], settings[name], path + name, problems) for name in names if name in settings}
    try:
        return cls(**{name: value for name, value in given.items() if value is not _REJECTED})
    except ConfigError as error:
        problems.extend(_below(path, problem) for problem in error.problems)
        return _REJECTED


def _unknown(cls: Any, path: str, key: Any, names: list[str]) -> Problem:
    deeper = [each for each in _paths(cls, path) if each.endswith(f".{key}")]
    guess = f"did you mean {' or '.join(deeper)}?" if deeper else did_you_mean(str(key), names, most=1)
    return Problem(f"{path}{key}", f"({guess and f'{guess} '}valid: {', '.join(names)})", lead="unknown setting ")


def _paths(cls: Any, path: str) -> Iterator[str]:
    """Yield the paths of the settings in the groups of `cls`."""
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from (f"{path}{name}.{each.name}" for each in fields(hint))
            yield from _paths(hint, f"{path}{name}.")


def _below(path: str, problem: str | Problem) -> Problem:
    """Return a copy of `problem` whose path begins with `path`, the path of its group."""
    if isinstance(problem, str):  # from a plug-in; the first word is the name of the setting
        name, _, message = problem.partition(" ")
        problem = Problem(name, message)
    return replace(problem, path=path + problem.path)


def _convert(hint: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    """Return `value` converted to the type `hint`, or record a problem and return _REJECTED.

    Integers are accepted as floats, and paths as text. Text in the notation of `hint` becomes a
    number. Nothing else is converted.
    """
    if is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(hint, value, path + ".", problems)  # type: ignore[arg-type]
        example = f"{path.rpartition('.')[2]}: {{{fields(hint)[0].name}: ...}}"
        problems.append(Problem(path, f"must be a group of settings such as {example}, got {reprlib.repr(value)}"))
        return _REJECTED
    if get_origin(hint) is Mapping:
        return _convert_groups(value, path, problems)
    for option, notation in _options(hint):
        if notation and isinstance(value, str) and (number := notation.read(value)) is not None:
            return number
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if option is float and _is_number(value):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
        if option is str and isinstance(value, PurePath):
            return str(value)
    problems.append(Problem(path, f"must be {type_in_words(hint)}, got {reprlib.repr(value)}"))
    return _REJECTED


def _convert_groups(value: Any, path: str, problems: list[Problem]) -> Any:
    """Return groups of settings, one per method; each method checks its own settings later."""
    groups = value if isinstance(value, Mapping) else {"": value}
    wrong = [name for name, group in groups.items() if not (isinstance(name, str) and isinstance(group, Mapping))]
    problems += [Problem(f"{path}.{name}".removesuffix("."), "must be a group of settings") for name in wrong]
    return _REJECTED if wrong else {name: dict(group) for name, group in groups.items()}


def _is_number(value: Any) -> bool:
    """Return whether `value` is a number, or text such as "1e-3" (a number in YAML 1.2 only)."""
    if isinstance(value, str):
        return re.fullmatch(r"[-+]?[0-9]+([.][0-9]*)?[eE][-+]?[0-9]+", value) is not None
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def type_in_words(hint: Any) -> str:
    """Return the type `hint` in words, for instance "a number or null"."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if get_origin(hint) is Mapping:
        return "groups of settings"
    words: list[Any] = []
    for option, notation in _options(hint):
        if notation:
            words.append(notation.words)
        else:
            words += get_args(option) if get_origin(option) is Literal else [names.get(option, str(option))]
    return " or ".join(str(word) for word in words)


def plain_type(hint: Any) -> type:
    """Return the plain type (bool, int, float or str) of a setting with the type `hint`."""
    plain = next(option for option, _ in _options(hint) if option is not type(None))
    return plain if isinstance(plain, type) else str


def choices(hint: Any) -> tuple[str, ...]:
    """Return the possible texts if `hint` is a Literal, otherwise an empty tuple."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def has_notation(hint: Any) -> bool:
    """Return whether numbers of type `hint` have a text notation, for example 10%."""
    return any(notation for _, notation in _options(hint))


def _options(hint: Any) -> Iterator[tuple[Any, Notation | None]]:
    """Yield each type of a union with its notation, or with None if it has no notation."""
    for option in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if get_origin(option) is Annotated:
            plain, *notes = get_args(option)
            yield plain, next((note for note in notes if isinstance(note, Notation)), None)
        else:
            yield option, None
