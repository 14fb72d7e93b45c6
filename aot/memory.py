"""Running out of memory, told as one error whatever library noticed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aot.errors import MemoryLimitError

__all__ = ["explained_memory", "is_out_of_memory"]

_PHRASES = ("can't allocate memory", "out of memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure of any library means that memory did not suffice."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(p in str(error) for p in _PHRASES)


@contextmanager
def explained_memory() -> Iterator[None]:
    """
    Raises:
        MemoryLimitError: with a remedy, in place of an out-of-memory failure of any kind.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            "out of memory; use fewer --frames, a smaller --encode-batch, --dtype bfloat16, or a smaller model"
        ) from error
