"""Means of groups of tokens, the same at every run on every device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["group_means"]


def group_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Means [groups, D] of the rows of values [m, D] that have the same number in `group`, int64 [m].

    values: float32 or float64. No group is empty. Rows are summed in order, where `index_add_` on CUDA devices sums
    in another order each time.
    """
    in_order = group.sort(stable=True).indices
    lengths = torch.bincount(group, minlength=groups)
    means: Tensor = torch.segment_reduce(values[in_order].contiguous(), "mean", lengths=lengths, axis=0)
    return means
