"""Encode frames in batches that fit into the device's free memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from aot.runtime.memory import is_out_of_memory

__all__ = ["batch_size_for", "micro_batches"]

# On the CPU larger batches are not faster. Its free memory is unknown, so bytes are limited too.
_CPU_FRAMES, _CPU_BYTES = 8, 4 << 30
# On CUDA, a share of the free memory, because allocators round up and fragment.
_MOST_FRAMES, _SHARE = 64, 0.5

T = TypeVar("T")


def batch_size_for(device: torch.device, frame_bytes: int) -> int:
    """Return the number of frames per batch, if a frame takes about `frame_bytes` of memory."""
    if device.type != "cuda":
        return max(1, min(_CPU_FRAMES, _CPU_BYTES // frame_bytes))
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved but not allocated is free as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(_MOST_FRAMES, int(_SHARE * free / frame_bytes)))


def micro_batches(
    total: int, size: int, run: Callable[[int, int], T], on_fewer: Callable[[int], None], borders: Sequence[int] = ()
) -> Iterator[tuple[int, T]]:
    """Yield (first, run(first, stop)) for each batch: up to `size` consecutive frames of `total`.

    A batch ends at the last of `borders` that it can reach, if there is one. If a batch runs out of
    memory, the batch size is halved, `on_fewer` receives the new size, and the same frames are
    tried again. If a single frame runs out of memory, the error is raised.
    """
    first = 0
    while first < total:
        stop = min(first + size, total)
        if stop < total:
            stop = max((border for border in borders if first < border <= stop), default=stop)
        try:
            result = run(first, stop)
        except (MemoryError, RuntimeError, OSError) as error:
            if stop - first == 1 or not is_out_of_memory(error):
                raise
            result = None
        # Retry outside the handler, because its traceback still holds the activations.
        if result is None:
            size = (stop - first) // 2
            on_fewer(size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield first, result
        first = stop
