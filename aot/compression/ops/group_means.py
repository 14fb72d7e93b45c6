"""Sum and average groups of tokens, with bitwise identical results in every run."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["group_means", "group_sizes", "group_sums"]


def group_sizes(group: Tensor, groups: int) -> Tensor:
    """Return the number of rows of each group, int64 [groups]; `group` is int64 [m]."""
    # Unlike `bincount`, this does not read the largest group.
    return group.new_zeros(groups).index_add_(0, group, torch.ones_like(group))


def group_sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the sum of each group's rows, [groups, D]; 0 for a group without rows.

    The order of summation is the same in every run; on CUDA, that of `index_add_` is not.

    Args:
        values: [m, D], float32 or float64.
        group: int64 [m], the group of each row, in 0 .. groups - 1.
        groups: the number of groups.
    """
    if groups == 1:
        return values.sum(0, keepdim=True)
    if not values.is_cuda:  # in order, and twice as fast
        return values.new_zeros(groups, values.shape[1]).index_add_(0, group, values)
    # The stable sort keeps the order of rows within a group. A check of the lengths would wait.
    in_order = values[group.sort(stable=True).indices]
    lengths = group_sizes(group, groups)
    sums: Tensor = torch.segment_reduce(in_order, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
    return sums


def group_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the mean of each group's rows, [groups, D]; see `group_sums`."""
    return group_sums(values, group, groups) / group_sizes(group, groups).clamp_min(1)[:, None]
