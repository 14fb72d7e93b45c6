"""Bipartite soft matching (ToMe): pairs of similar tokens become one, without a loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.similarity import working_dtype

__all__ = ["Matching", "match_pairs", "merge_matched"]


@dataclass(frozen=True, slots=True)
class Matching:
    """target: int64 [B, T], where every token goes, its own index unless it is merged into another's. ranked: int64
    [B, ceil(T / 2)], the tokens at even places from the most to the least similar to an odd one.
    """

    target: Tensor
    ranked: Tensor


def match_pairs(metric: Tensor, merges: int) -> Matching:
    """Match the tokens of metric [B, T, d].

    Tokens at even places look for the most similar (cosine) one at an odd place; the `merges` most similar pairs are
    merged, into the odd token. Ties go to the lower index.

    Raises:
        ValueError: merges is not in 0 .. ceil(T / 2), or there is no odd place to merge into.
    """
    batch, count = metric.shape[:2]
    most = (count + 1) // 2 if count > 1 else 0
    if not 0 <= merges <= most:
        raise ValueError(f"merges: expected 0 to {most} of {count} tokens, got {merges}")
    target = torch.arange(count, device=metric.device).expand(batch, count).clone()
    if merges == 0:
        return Matching(target, target[:, ::2])
    unit = functional.normalize(metric.to(working_dtype(metric)), dim=-1)
    similarity, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    ranked = similarity.sort(dim=-1, descending=True, stable=True).indices
    merged = ranked[:, :merges]
    return Matching(target.scatter(1, 2 * merged, 2 * partner.gather(1, merged) + 1), 2 * ranked)


def merge_matched(values: Tensor, sizes: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of values [B, T, D], weighted by sizes [B, T], of the tokens that `target` sends to one place.

    The remaining tokens in ascending order: values [B, T', D], sizes [B, T'], and their indices [B, T'].
    """
    batch, count, width = values.shape
    weighted = values.to(working_dtype(values)) * sizes[..., None]
    summed = torch.zeros_like(weighted).scatter_add_(1, target[..., None].expand(-1, -1, width), weighted)
    total = torch.zeros_like(sizes).scatter_add_(1, target, sizes)
    stays = target == torch.arange(count, device=target.device)
    index = stays.nonzero(as_tuple=True)[1].view(batch, -1)
    total = total.gather(1, index)
    return summed.gather(1, index[..., None].expand(-1, -1, width)) / total[..., None], total, index
