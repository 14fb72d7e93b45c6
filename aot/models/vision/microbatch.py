"""Frames through the encoder a few at a time: as many as fit into the device's free memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from aot.runtime.memory import is_out_of_memory

__all__ = ["batch_size_for", "micro_batches"]

_CPU_FRAMES = 8  # more gains nothing there
_CPU_BYTES = 4 << 30  # what is free is not known, and frames may be large
_MOST_FRAMES = 64
_SHARE = 0.5  # of the free memory; allocators round up and fragment

T = TypeVar("T")


def batch_size_for(device: torch.device, frame_bytes: int) -> int:
    """How many frames to encode at once, if one needs about `frame_bytes` of activations."""
    if device.type != "cuda":
        return max(1, min(_CPU_FRAMES, _CPU_BYTES // frame_bytes))
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(_MOST_FRAMES, int(_SHARE * free / frame_bytes)))


def micro_batches(
    total: int, size: int, run: Callable[[int, int], T], on_fewer: Callable[[int], None]
) -> Iterator[tuple[int, T]]:
    """Yield (first, run(first, stop)) for runs of up to `size` of `total` frames.

    Where memory does not suffice the size is halved, `on_fewer` gets the new one, and the same frames are tried
    again; a failure with one frame at a time is raised.
    """
    first = 0
    while first < total:
        try:
            result = run(first, min(first + size, total))
        except (MemoryError, RuntimeError, OSError) as error:
            if min(size, total - first) == 1 or not is_out_of_memory(error):
                raise
            result = None
        if result is None:  # not in the handler, whose traceback still holds the activations
            size = min(size, total - first) // 2
            on_fewer(size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield first, result
        first = min(first + size, total)
