"""Pick items one after the other, each the one that best completes how all items are represented.

This is greedy facility location. Similarities are whole numbers: sums of them do not depend on
their order, so that all devices agree and equal gains are equal. A gain is computed once. After
each pick it loses what the pick took from it, which concerns only the items that are represented
better since; their number falls quickly, and with it the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.kernels import runs_triton
from aot.compression.ops.padding import true_rows
from aot.compression.ops.products import pair_products

__all__ = ["ONE", "pick_representatives", "similarity_table"]

ONE = 1 << 21  # a cosine of 1
_ROWS = 256  # the sum of as many differences of two cosines is below 2^31
_LEAST_LENGTH = 1e-12  # shorter vectors have no direction


def similarity_table(values: Tensor) -> Tensor:
    """Return the cosine similarities of `values` [B, m, D] times ONE, rounded: int32 [B, m, m].

    An item has similarity 1 to itself. Zero vectors have similarity 0 to all others.
    """
    products = pair_products(values)
    lengths = products.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().clamp_min_(_LEAST_LENGTH)
    cosines = products.div_(lengths[:, :, None]).div_(lengths[:, None])
    table = cosines.clamp_(-1, 1).mul_(ONE).round_().to(torch.int32)
    table.diagonal(dim1=1, dim2=2).fill_(ONE)
    return table


def pick_representatives(table: Tensor, steps: int) -> Tensor:
    """Return the items that are picked in `steps` steps: int64 [B, steps].

    Each step picks the item with the highest gain; ties go to the lower index. The gain is the
    increase of the sum over all items of their similarity to the most similar picked item, which is
    -1 before the first step.

    Args:
        table: int32 [B, m, m], B symmetric tables from `similarity_table`.
        steps: the number of steps, at most m.
    """
    if runs_triton(table.device):
        from aot.compression.ops.facility_kernel import pick_queued

        return pick_queued(table, steps)
    return torch.stack([_picked(each, steps) for each in table])


def _picked(table: Tensor, steps: int) -> Tensor:
    """Pick with torch, from one table [m, m]."""
    best = torch.full_like(table[0], -ONE)
    gains = table.sum(0) + ONE * len(table)
    picks = gains.new_empty(steps, 1)
    highest, spare = gains.new_empty(1), torch.empty_like(table[:_ROWS])
    for step in range(steps):
        torch.max(gains, 0, keepdim=True, out=(highest, picks[step]))
        # A picked item has gain 0 from here on, and so have its equals: -1 comes after them.
        gains.index_fill_(0, picks[step], -1)
        now = torch.maximum(best, table.index_select(0, picks[step])[0])
        # The gain of a column loses, in each row that is represented better, what is below `now`.
        for rows in torch.split(true_rows(now > best), _ROWS):
            before, after = best[rows, None], now[rows, None]
            # In memory that stays in the cache.
            values = torch.index_select(table, 0, rows, out=spare[: len(rows)])
            torch.minimum(torch.maximum(values, before, out=values), after, out=values)
            gains -= values.sub_(before).sum(0, dtype=torch.int32)
        best = now
    return picks[:, 0]
