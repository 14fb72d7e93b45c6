"""Store keys and values in buffers with free slots: a new token does not copy earlier tokens."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["Slots", "branched_cache", "slot_cache"]

_ALIGNED = 16  # buffer lengths are multiples of this, because attention kernels need aligned masks


class Slots(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [B, H, capacity, d] each.

    The first `held` slots hold rows; the other slots are zero, or hold rows that were cropped. New
    rows are appended, and attention reads the held rows. A full buffer is replaced by a larger one
    with `room` or more free slots.

    Between `bind` and `release`, a tensor on the device holds the index of the next row. Then
    attention reads every slot and needs a mask.
    """

    keys: Tensor
    values: Tensor
    is_initialized: bool

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.held = room, 0
        self._step: Tensor | None = None

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, room: int, batch: int = 1) -> Slots:
        """Return a layer with `batch` copies of keys and values [1, H, T, d]."""
        made = cls(room)
        made.update(*(states.expand(batch, -1, -1, -1) for states in (keys, values)))
        return made

    @property
    def capacity(self) -> int:
        """Return the number of slots."""
        return int(self.keys.shape[-2]) if self.is_initialized else 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append rows [B, H, R, d]; return the keys and values to which these rows attend."""
        # Bound: always the same operations on the same memory, as a CUDA graph requires.
        if self._step is not None:
            self.keys[:, :, self.held :].index_copy_(2, self._step, key_states)
            self.values[:, :, self.held :].index_copy_(2, self._step, value_states)
            return self.keys, self.values
        # Free: the host knows how many rows are held.
        first, stop = self.held, self.held + key_states.shape[-2]
        if stop > self.capacity:
            self._enlarge(key_states, value_states, stop + self.room)
        self.keys.narrow(2, first, stop - first).copy_(key_states)
        self.values.narrow(2, first, stop - first).copy_(value_states)
        self.held = stop
        # The first rows are returned unchanged, because views of the buffers are not contiguous.
        if first == 0:
            return key_states, value_states
        return self.keys.narrow(2, 0, stop), self.values.narrow(2, 0, stop)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one row per sequence, [B, H, d], as `update` does, with fewer operations."""
        first = self.held
        if self._step is not None or first == self.capacity:
            return self.update(keys.unsqueeze(2), values.unsqueeze(2))
        self.keys.select(2, first).copy_(keys)
        self.values.select(2, first).copy_(values)
        self.held = first + 1
        return self.keys.narrow(2, 0, first + 1), self.values.narrow(2, 0, first + 1)

    def bind(self, step: Tensor) -> None:
        """Make `update` write to slot `held + step`, with `step` int64 [1] on the device.

        A full buffer is enlarged first.
        """
        if self.held == self.capacity:
            self._enlarge(self.keys, self.values, self.held + max(self.room, 1))
        self._step = step

    def release(self, steps: int) -> None:
        """Increase `held` by `steps`, the number of rows written since `bind`, and undo `bind`."""
        self.held += steps
        self._step = None

    def crop(self, max_length: int) -> None:
        """Keep only the first `max_length` rows, of all that were written, and undo `bind`."""
        self.held, self._step = max_length, None

    def get_seq_length(self) -> int:
        """Return the number of held rows."""
        return self.held

    def _enlarge(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        """Enlarge the buffers to at least `capacity` slots, with dtype and device of `keys`."""
        before = (self.keys, self.values) if self.is_initialized else None
        capacity = -(-capacity // _ALIGNED) * _ALIGNED
        # Zeros, because a masked value still takes part in products: 0 * NaN would be NaN.
        self.keys, self.values = (
            states.new_zeros(*states.shape[:2], capacity, states.shape[-1]) for states in (keys, values)
        )
        if before is None:
            self.device, self.dtype, self.is_initialized = keys.device, keys.dtype, True
        else:
            for states, held in zip((self.keys, self.values), before, strict=True):
                states[:, :, : self.held] = held[:, :, : self.held]


def slot_cache(config: Any, room: int) -> Any:
    """Return an empty cache for a language model; layers with full attention have `Slots`."""
    # Other layers (sliding windows, linear attention) keep the cache of transformers.
    cache = DynamicCache(config=config)
    cache.layers = [Slots(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def branched_cache(cache: Any, batch: int, room: int) -> Any:
    """Return a cache with `batch` copies of the sequence in `cache`, which does not change."""
    branched = copy.copy(cache)
    branched.layers = [_branched(layer, batch, room) for layer in cache.layers]
    return branched


def _branched(layer: Any, batch: int, room: int) -> Any:
    if isinstance(layer, Slots):
        return Slots.of(layer.keys[:, :, : layer.held], layer.values[:, :, : layer.held], room, batch)
    # A shallow copy is enough, because these layers replace their tensors when they grow.
    branched = copy.copy(layer)
    branched.batch_repeat_interleave(batch)
    return branched
