"""Average groups of tokens, with bitwise identical results in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from aot.compression.ops.kmeans import cluster_sizes

__all__ = ["group_means"]


def group_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the mean of each group's rows, [groups, D].

    Rows are summed in ascending order. On CUDA, `index_add_` would use another order in each run.

    Args:
        values: [m, D], float32 or float64.
        group: int64 [m], the group of each row, in 0 .. groups - 1; no group is empty.
        groups: the number of groups.
    """
    lengths = cluster_sizes(group, groups)
    if values.device.type == "mps":  # MPS has no segment_reduce
        return values.new_zeros(groups, values.shape[1]).index_add_(0, group, values) / lengths[:, None]
    # The stable sort keeps the order of rows within a group.
    in_order = group.sort(stable=True).indices
    # `unsafe` leaves out a check of the lengths, which waits for the device.
    means: Tensor = torch.segment_reduce(values[in_order].contiguous(), "mean", lengths=lengths, axis=0, unsafe=True)
    return means
