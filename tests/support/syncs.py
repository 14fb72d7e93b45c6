"""Count the operations that make the host wait for a device, without a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if name in ("_local_scalar_dense", "nonzero", "equal"):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Yield a counter of the operations within the context that read values from a device."""
    waits = _Waits()
    read = torch.Tensor.tolist

    def tolist(self: torch.Tensor) -> Any:
        waits.seen["tolist"] += 1
        return read(self)

    with patch.object(torch.Tensor, "tolist", tolist), waits:
        yield waits.seen
