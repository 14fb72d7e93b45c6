"""Means of groups of tokens, the same at every run."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["group_means"]


def group_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Means [groups, D] of the rows of values [m, D] that have the same number in `group`, int64 [m].

    values: float32 or float64. No group is empty. Rows are summed in order, where `index_add_` on CUDA devices sums
    in another order each time.
    """
    lengths = torch.bincount(group, minlength=groups)
    if values.device.type == "mps":  # has no segment_reduce
        return values.new_zeros(groups, values.shape[1]).index_add_(0, group, values) / lengths[:, None]
    in_order = group.sort(stable=True).indices
    means: Tensor = torch.segment_reduce(values[in_order].contiguous(), "mean", lengths=lengths, axis=0)
    return means
