"""Hold values that a report shows, and read them from the device when it needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

__all__ = ["Fact", "FactsReadLater"]

Fact = int | float | str | bool | None


class FactsReadLater(Mapping[str, Fact]):
    """Hold facts for the report; the first access reads them from the device and waits."""

    def __init__(self, read: Callable[[], Mapping[str, Fact]]) -> None:
        self._read = read

    @cached_property
    def _facts(self) -> Mapping[str, Fact]:
        return self._read()

    def __getitem__(self, name: str) -> Fact:
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __repr__(self) -> str:
        return repr(dict(self._facts))
