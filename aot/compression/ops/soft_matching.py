"""Merge pairs of similar tokens by bipartite soft matching (ToMe, arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import working_dtype

__all__ = ["Matching", "match_pairs", "merge_matched"]


@dataclass(frozen=True, slots=True)
class Matching:
    """Record which tokens are merged into which.

    Attributes:
        target: int64 [B, T], the token that each token is merged into; its own index if it stays.
        ranked: int64 [B, ceil(T / 2)], the tokens with an even index, by descending similarity to
            their partner with an odd index.
    """

    target: Tensor
    ranked: Tensor


def match_pairs(metric: Tensor, merges: int) -> Matching:
    """Match the tokens of metric [B, T, d] by cosine similarity.

    Each token with an even index is paired with the most similar token with an odd index. The
    `merges` most similar pairs are merged, into the odd token. Ties go to the lower index.

    Raises:
        ValueError: If `merges` is not in 0 .. ceil(T / 2), or there is no odd index to merge into.
    """
    batch, count = metric.shape[:2]
    most = (count + 1) // 2 if count > 1 else 0
    if not 0 <= merges <= most:
        raise ValueError(f"merges: expected 0 to {most} of {count} tokens, got {merges}")
    target = torch.arange(count, device=metric.device).expand(batch, count).clone()
    if merges == 0:
        return Matching(target, target[:, ::2])
    # 1. The best partner of each even token.
    unit = functional.normalize(metric.to(working_dtype(metric)), dim=-1)
    similarity, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    # 2. The most similar pairs; even token i has index 2 i, odd token j has index 2 j + 1.
    ranked = similarity.sort(dim=-1, descending=True, stable=True).indices
    merged = ranked[:, :merges]
    return Matching(target.scatter(1, 2 * merged, 2 * partner.gather(1, merged) + 1), 2 * ranked)


def merge_matched(values: Tensor, sizes: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge tokens into means that are weighted by size.

    Args:
        values: [B, T, D].
        sizes: [B, T], how many tokens each is already made of.
        target: [B, T], from `match_pairs`.

    Returns:
        The remaining tokens in ascending order: values [B, T', D], sizes [B, T'], indices [B, T'].
    """
    # 1. Add values and sizes at the targets.
    batch, count, width = values.shape
    weighted = values.to(working_dtype(values)) * sizes[..., None]
    summed = torch.zeros_like(weighted).scatter_add_(1, target[..., None].expand(-1, -1, width), weighted)
    total = torch.zeros_like(sizes).scatter_add_(1, target, sizes)
    # 2. Keep the tokens that stay; every row of the batch has the same number of them.
    stays = target == torch.arange(count, device=target.device)
    index = stays.nonzero(as_tuple=True)[1].view(batch, -1)
    total = total.gather(1, index)
    return summed.gather(1, index[..., None].expand(-1, -1, width)) / total[..., None], total, index
