"""Copy values from a device to the host, and wait for them only when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Download", "Fact", "FactsReadLater", "counted_later"]

Fact = int | float | str | bool | None


class Download:
    """A copy of `values` on the host. On CUDA it is queued immediately, after the work so far.

    So `read` waits for the work that was queued before the copy, but not for later work.
    """

    def __init__(self, values: Tensor) -> None:
        # A non-blocking copy to the host goes to pinned memory.
        self._values = values.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """Wait for the copy, and return it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


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


def counted_later(counts: Mapping[str, Tensor], known: Mapping[str, Fact] | None = None) -> FactsReadLater:
    """Return `counts`, integer tensors [], as facts, followed by the facts that are `known`.

    The copy of the counts to the host is queued at once.
    """
    copy = Download(torch.stack([*counts.values()]))
    return FactsReadLater(lambda: {**dict(zip(counts, copy.read().tolist(), strict=True)), **(known or {})})
