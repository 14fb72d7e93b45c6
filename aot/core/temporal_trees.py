"""Trees of similar tokens: each token may point to one of the frame before, and a tree becomes one token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["merge_trees", "nearest_before", "tree_roots"]


def nearest_before(features: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """For each token of features [F, n, D] the most similar one (cosine) of the frame before: similarity [F, n] and
    its index int64 [F, n].

    Only tokens in `free`, bool [F, n], have one and are one; the similarity of others, and of the first frame's, is
    -inf. Of equal ones the lower index.
    """
    unit = functional.normalize(features, dim=-1)
    similarity = (unit[1:] @ unit[:-1].mT).masked_fill(~free[:-1, None], -torch.inf)
    best, parent = similarity.max(-1)
    best = best.masked_fill(~free[1:], -torch.inf)
    return functional.pad(best, (0, 0, 1, 0), value=-torch.inf), functional.pad(parent, (0, 0, 1, 0))


def merge_trees(
    values: Tensor, parent: Tensor, linked: Tensor, *, children_count_once: bool = False
) -> tuple[Tensor, Tensor]:
    """Values [F, n, D] in which every token without a link is the mean of its tree, and tree sizes [F, n].

    parent: int64 [F, n], a token's parent in the frame before; linked: bool [F, n], whether it has one. What a linked
    token is left with has no meaning. With `children_count_once` the sum over a tree is divided by 1 + the number of
    the root's children, whatever the size of their own trees, as the program of FlashVID does.
    """
    sums, sizes = values.clone(), torch.ones_like(values[..., 0])
    divisors = sizes.clone()
    places = torch.arange(values.shape[1], device=values.device)
    for frame in range(len(values) - 1, 0, -1):
        # A product, as scattered sums differ from run to run on CUDA devices.
        joins = ((parent[frame] == places[:, None]) & linked[frame]).to(values.dtype)
        sums[frame - 1] += joins @ sums[frame]
        sizes[frame - 1] += joins @ sizes[frame]
        divisors[frame - 1] += joins.sum(-1)
    return sums / (divisors if children_count_once else sizes)[..., None], sizes


def tree_roots(parent: Tensor, linked: Tensor) -> Tensor:
    """The token without a link that each is part of, as in `merge_trees`: indices into all F * n, int64 [F, n]."""
    roots = torch.arange(parent.numel(), device=parent.device).view_as(parent)
    for frame in range(1, len(roots)):
        roots[frame] = torch.where(linked[frame], roots[frame - 1, parent[frame]], roots[frame])
    return roots
