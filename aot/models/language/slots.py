"""Keys and values in buffers of fixed length, so that a new token costs no copy of earlier ones."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["Slots", "branched_cache", "slot_cache"]

_ALIGNED = 16  # attention kernels read masks in pieces of so many columns


class Slots(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [B, H, capacity, d] each.

    The first `held` slots hold rows, the others are zero. New rows follow those held, and attention
    sees all rows that are held. Full buffers are replaced by larger ones, with at least `room` more
    slots. Between `bind` and `release` the device holds the index of the next row, and attention
    sees every slot, so it needs a mask.
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
        """Return a layer that holds a copy of keys and values [1, H, T, d] for each of a batch."""
        made = cls(room)
        made.update(*(states.expand(batch, -1, -1, -1) for states in (keys, values)))
        return made

    @property
    def capacity(self) -> int:
        """Return how many rows the buffers have."""
        return int(self.keys.shape[-2]) if self.is_initialized else 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write rows [B, H, R, d], and return the keys and values that they attend to."""
        if self._step is not None:
            self.keys[:, :, self.held :].index_copy_(2, self._step, key_states)
            self.values[:, :, self.held :].index_copy_(2, self._step, value_states)
            return self.keys, self.values
        first, stop = self.held, self.held + key_states.shape[-2]
        if stop > self.capacity:
            self._enlarge(key_states, value_states, stop + self.room)
        self.keys.narrow(2, first, stop - first).copy_(key_states)
        self.values.narrow(2, first, stop - first).copy_(value_states)
        self.held = stop
        if first == 0:
            return key_states, value_states  # as they were computed: no strides between heads
        return self.keys.narrow(2, 0, stop), self.values.narrow(2, 0, stop)

    def bind(self, step: Tensor) -> None:
        """Write rows from now on to the slot `held + step`, and make room if there is none.

        Args:
            step: [1] int64 on the device.
        """
        if self.held == self.capacity:
            self._enlarge(self.keys, self.values, self.held + max(self.room, 1))
        self._step = step

    def release(self, steps: int) -> None:
        """Count the rows of that many steps as held, and end what `bind` began."""
        self.held += steps
        self._step = None

    def get_seq_length(self) -> int:
        """Return how many rows are held."""
        return self.held

    def _enlarge(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        """Make new buffers; keys and values have their shape but for the length, dtype, device."""
        before = (self.keys, self.values) if self.is_initialized else None
        capacity = -(-capacity // _ALIGNED) * _ALIGNED
        self.keys, self.values = (
            states.new_zeros(*states.shape[:2], capacity, states.shape[-1]) for states in (keys, values)
        )
        if before is None:
            self.device, self.dtype, self.is_initialized = keys.device, keys.dtype, True
        else:
            for states, held in zip((self.keys, self.values), before, strict=True):
                states[:, :, : self.held] = held[:, :, : self.held]


def slot_cache(config: Any, room: int) -> Any:
    """Return an empty cache for a language model: `Slots` where a layer attends to all tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [Slots(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def branched_cache(cache: Any, batch: int, room: int) -> Any:
    """Return a cache with a copy of one sequence for each of a batch, which grows on its own."""
    branched = copy.copy(cache)
    branched.layers = [_branched(layer, batch, room) for layer in cache.layers]
    return branched


def _branched(layer: Any, batch: int, room: int) -> Any:
    if isinstance(layer, Slots):
        return Slots.of(layer.keys[:, :, : layer.held], layer.values[:, :, : layer.held], room, batch)
    branched = copy.copy(layer)  # its keys and values are shared until it grows, which makes new ones
    branched.batch_repeat_interleave(batch)
    return branched
