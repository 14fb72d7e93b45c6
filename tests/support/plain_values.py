"""Ways into nested plain values, and values that belong nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from random import Random
from typing import Any

__all__ = ["Called", "places", "put", "strange_value"]


class Called:
    """Pickles as the call of a function, with a state to set on what comes of it."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of a structure."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*way, key)
        yield from places(child, (*way, key))


def put(group: Any, place: tuple[Any, ...] | list[Any], value: Any) -> None:
    *way, last = place
    reduce(lambda inner, part: inner[part], way, group)[last] = value


_STRANGE: tuple[Any, ...] = (
    None, True, False, "", "text", [], {}, [[]], {"a": None}, [None], 0, 1, -1, 2, 3, 12, 255, 10**6, 2**31 - 1, 2**31,
    2**53 + 1, 2**63, 2**70, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"),
    "\x1b]0;title\x07", "a\nb", "\u202egnp.exe", "\ud800", "[red]x[/red]", "[/x]", "../../etc/passwd", "/etc/passwd",
    "evil/model", "cpu", "cuda:99", "shapes", "none", "aot", "%s%n", "{}", "x" * 70_000,
)  # fmt: skip


def strange_value(random: Random) -> Any:
    """A value of another type, out of range, or too much of something."""
    form = random.random()
    if form < 0.8:
        return random.choice(_STRANGE)
    if form < 0.85:
        return _nested(random, random.choice((5, 11, 12, 13, 150)))
    if form < 0.9:
        return [random.choice(_STRANGE) for _ in range(random.choice((1, 2, 3, 100)))]
    if form < 0.95:
        return {str(random.choice(_STRANGE)): random.choice(_STRANGE) for _ in range(3)}
    return random.choice((random.randint(-5, 40), random.uniform(-2, 2)))


def _nested(random: Random, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = random.choice(([value], {"a": value}))
    return value
