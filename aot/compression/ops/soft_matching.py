"""Merge pairs of similar tokens by bipartite soft matching (ToMe, arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.padding import true_indices
from aot.compression.ops.similarity import working_dtype

__all__ = ["Matching", "match_pairs", "merge_matched"]


@dataclass(frozen=True, slots=True)
class Matching:
    """Record into which token each token is merged.

    Attributes:
        target: int64 [B, T]; token i is merged into token target[i], and stays if target[i] is i.
        ranked: int64 [B, ceil(T / 2)], the even token indices, sorted by descending similarity of
            the token to its partner with an odd index.
    """

    target: Tensor
    ranked: Tensor


def match_pairs(metric: Tensor, merges: int) -> Matching:
    """Match tokens by the cosine similarity of their vectors in `metric` [B, T, d].

    Each token with an even index is paired with the most similar token with an odd index. In the
    `merges` most similar pairs, the even token is merged into the odd. Ties go to the lower index.

    Raises:
        ValueError: If `merges` is not in 0 .. ceil(T / 2), or is above 0 with fewer than 2 tokens.
    """
    batch, count = metric.shape[:2]
    most = (count + 1) // 2 if count > 1 else 0
    if not 0 <= merges <= most:
        raise ValueError(f"merges: expected 0 to {most} of {count} tokens, got {merges}")
    target = torch.arange(count, device=metric.device).expand(batch, count).clone()
    if merges == 0:
        return Matching(target, target[:, ::2])
    # 1. Find the most similar odd token for each even token.
    unit = functional.normalize(metric.to(working_dtype(metric)), dim=-1)
    similarity, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    # 2. Rank the pairs by similarity; even token i has index 2 i, odd token j has index 2 j + 1.
    ranked = similarity.sort(dim=-1, descending=True, stable=True).indices
    merged = ranked[:, :merges]
    return Matching(target.scatter(1, 2 * merged, 2 * partner.gather(1, merged) + 1), 2 * ranked)


def merge_matched(values: Tensor, sizes: Tensor, target: Tensor, merges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merge each token into its target; merged values are means that are weighted by size.

    Args:
        values: [B, T, D].
        sizes: [B, T], the number of original tokens in each token.
        target: [B, T], from `match_pairs`.
        merges: the number of merged tokens, from which the host knows the shape of the result.

    Returns:
        Values [B, T', D], sizes [B, T'] and ascending indices [B, T'] of the remaining tokens.
    """
    # 1. Add values and sizes at the targets.
    batch, count, width = values.shape
    weighted = values.to(working_dtype(values)) * sizes[..., None]
    summed = torch.zeros_like(weighted).scatter_add_(1, target[..., None].expand(-1, -1, width), weighted)
    total = torch.zeros_like(sizes).scatter_add_(1, target, sizes)
    # 2. Keep the tokens that stay; every row of the batch has the same number of them.
    stays = target == torch.arange(count, device=target.device)
    index = true_indices(stays, batch * (count - merges)).view(batch, -1) % count
    total = total.gather(1, index)
    return summed.gather(1, index[..., None].expand(-1, -1, width)) / total[..., None], total, index
