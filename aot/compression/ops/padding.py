"""Choose sizes without waiting for a device: exact on the CPU, upper bounds elsewhere.

How many tokens a frame has in a set can depend on the content. Reading such a number from a GPU
makes the host wait. So methods work on padded tables with masks. On the CPU, where reading is free,
the same code runs on tables without padding, set by set: there the time grows with the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "batches",
    "fixed_point",
    "is_queued",
    "longest",
    "packed",
    "placed",
    "true_indices",
    "true_rows",
    "unless_full",
]


def is_queued(device: torch.device) -> bool:
    """Return whether work on `device` is queued, so that reading a value waits for the device."""
    return device.type != "cpu"


def longest(counts: Tensor, most: int) -> int:
    """Return the largest of `counts` on the CPU; elsewhere `most`, which no count may exceed."""
    return most if is_queued(counts.device) else int(counts.max()) if counts.numel() else 0


def batches(label: Tensor) -> Iterator[slice]:
    """Yield the ranges of sets to process together: on the CPU, adjacent sets with equal labels.

    Elsewhere, all sets form one range. `label` is [B]. If sets with other labels differ in size, or
    products between them are of no use, this saves the CPU time, which grows with the padding.
    """
    if is_queued(label.device):
        yield slice(0, len(label))
        return
    stops = (label[1:] != label[:-1]).nonzero().flatten().add(1).tolist()
    yield from (slice(start, stop) for start, stop in pairwise([0, *stops, len(label)]))


def fixed_point(step: Callable[[Tensor], Tensor], most: int, device: torch.device) -> Tensor:
    """Return the number that `step` reaches from 0 and then does not change: int64 [1].

    `step` maps numbers [r] to numbers [r] that are not lower, and reaches `most` at the highest.
    """
    if not is_queued(device):
        number = torch.zeros(1, dtype=torch.long)
        while not torch.equal(following := step(number), number):
            number = following
        return number
    # Tabulate all steps. Each time the table is applied to itself, an entry is twice as many steps.
    reached = step(torch.arange(most + 1, device=device)).clamp_max(most)
    for _ in range(most.bit_length()):
        reached = reached[reached]
    return reached[:1]


def true_rows(mask: Tensor) -> Tensor:
    """Return the indices of the true entries of `mask` [B] on the CPU; elsewhere all B indices."""
    return torch.arange(len(mask), device=mask.device) if is_queued(mask.device) else mask.nonzero()[:, 0]


def true_indices(mask: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the first `count` true entries of `mask`: int64 [count].

    `mask` is read as one row. If fewer entries are true, the rest of the result is 0.
    """
    rank = mask.flatten().cumsum(0)
    # All other entries are written to the slot `count`, which is cut off.
    slot = torch.where(mask.flatten() & (rank <= count), rank - 1, count)
    index = torch.arange(len(slot), device=mask.device)
    return index.new_zeros(count + 1).scatter_(0, slot, index)[:count]


def unless_full(valid: Tensor | None) -> Tensor | None:
    """Return `valid`, a mask of padding; None if, on the CPU, nothing is padding."""
    return None if valid is None or (not is_queued(valid.device) and bool(valid.all())) else valid


def packed(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the true entries of each row of `mask` [B, m], first, and their mask.

    Both results are [B, P], with P from `longest`; no row has more than `most` true entries.
    Indices are ascending. After the true entries, rows are padded with indices of other entries.
    """
    counts = mask.sum(1)
    width = longest(counts, most)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return index, torch.arange(width, device=mask.device) < counts[:, None]


def placed(rows: Tensor, index: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """Return `rows` [K, ...] after rows[index[i]] = values[i] wherever valid[i] is true."""
    # Invalid values are written to one more row, which is cut off.
    target = torch.where(valid, index, len(rows))
    return torch.cat([rows, torch.zeros_like(rows[:1])]).index_copy_(0, target, values)[: len(rows)]
