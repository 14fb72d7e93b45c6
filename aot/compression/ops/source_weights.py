"""Trace the pooled tokens that each merged token consists of, and their weights.

This runs only on request, and on the CPU, where sums are the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from aot.compression.ops.grid import pooled_grid, tokens_of_patches
from aot.types import CompressedTokens, SourceWeights, VisualTokens

__all__ = ["blended", "chosen", "joined", "merged", "of_chunks", "of_frames", "of_kept", "of_patches", "unchanged"]


def unchanged(index: Tensor) -> SourceWeights:
    """Return the sources of unchanged pooled tokens with indices `index` (int64, any shape)."""
    index = index.flatten().cpu()
    return SourceWeights(len(index), torch.arange(len(index)), index, torch.ones(len(index), dtype=torch.float64))


def of_frames(weights: Tensor, first: int) -> SourceWeights:
    """Return the sources of tokens that are weighted means of the pooled tokens of one frame.

    Args:
        weights: [f, k, n], the weight of each pooled token (axis 2) in each token (axis 1) of a
            frame (axis 0).
        first: the index of the first of these f consecutive frames.
    """
    weights = weights.cpu().double()
    frame, row, cell = weights.nonzero(as_tuple=True)
    token, source = frame * weights.shape[1] + row, (first + frame) * weights.shape[2] + cell
    return _normalized(weights.shape[0] * weights.shape[1], token, source, weights[frame, row, cell])


def joined(parts: Sequence[SourceWeights]) -> SourceWeights:
    """Return the sources of the tokens of all `parts`, concatenated."""
    firsts = [0, *accumulate(part.count for part in parts)]
    return SourceWeights(
        firsts[-1],
        torch.cat([part.token + first for part, first in zip(parts, firsts, strict=False)]),
        torch.cat([part.source for part in parts]),
        torch.cat([part.weight for part in parts]),
    )


def merged(tokens: SourceWeights, group: Tensor, weight: Tensor | None = None) -> SourceWeights:
    """Return the sources of new tokens, each the mean of a group of `tokens`.

    Args:
        tokens: the sources of the tokens to merge.
        group: the group of each token; a token with a negative group is dropped.
        weight: the weight of each token in the mean of its group; None for equal weights.
    """
    group = group.flatten().cpu()
    # A mean of means weights each entry by the product of both weights, up to normalization.
    own = tokens.weight if weight is None else tokens.weight * weight.flatten().cpu().double()[tokens.token]
    token = group[tokens.token]
    held = token >= 0
    return _normalized(int(group.max()) + 1 if len(group) else 0, token[held], tokens.source[held], own[held])


def blended(tokens: SourceWeights, others: SourceWeights, own: Tensor | float) -> SourceWeights:
    """Return the sources of the blends own * x + (1 - own) * y of each token.

    `tokens` has the sources of x, and `others` those of y. A token that has no entry in `others`
    stays unchanged. `own` is [count] or a number, in [0, 1].
    """
    is_blend = torch.zeros(tokens.count, dtype=torch.bool).index_fill_(0, others.token, True)
    own = torch.where(is_blend, torch.as_tensor(own).cpu().double(), 1.0)
    return _normalized(
        tokens.count,
        torch.cat([tokens.token, others.token]),
        torch.cat([tokens.source, others.source]),
        torch.cat([tokens.weight * own[tokens.token], others.weight * (1 - own)[others.token]]),
    )


def chosen(tokens: SourceWeights, order: Tensor) -> SourceWeights:
    """Return the sources of the tokens `order` (int64 [K], distinct indices), in this order."""
    rank = torch.full((tokens.count,), -1)
    rank[order.cpu()] = torch.arange(len(order))
    return merged(tokens, rank)


def of_patches(tokens: VisualTokens, labels: Tensor, order: Tensor) -> SourceWeights:
    """Return the source weights of tokens that are means of patches.

    Args:
        tokens: the visual tokens of the video.
        labels: [F * N], the group of each patch; each group is averaged into one token.
        order: [K], the groups in the order of the kept tokens.
    """
    cells = tokens_of_patches(torch.arange(len(labels)), tokens.grid, tokens.pool)
    pooled = len(tokens.timestamps_s) * math.prod(pooled_grid(tokens.grid, tokens.pool))
    # A pooled token's mass is its number of patches, scaled to a mean of 1.
    mass = cells.bincount(minlength=pooled) * (pooled / len(cells))
    return replace(chosen(merged(unchanged(cells), labels), order), source_mass=mass.float())


def of_kept(kept: CompressedTokens) -> SourceWeights:
    """Return the sources of kept tokens in float32, with unique (token, source) pairs, sorted.

    If `kept.sources` is None, every kept token is an unchanged pooled token.
    """
    found = kept.sources or unchanged(kept.cell)
    token, source, weight = found.token.cpu(), found.source.cpu(), found.weight.cpu()
    # With one integer per pair, `unique` sorts the pairs and finds repeated pairs.
    total = _pooled_tokens(kept)
    pairs, pair = (token * total + source).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    weight = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, pair, weight.double())
    mass = torch.ones(total) if found.source_mass is None else found.source_mass.cpu()
    is_global = None if found.is_global is None else found.is_global.cpu()
    return SourceWeights(found.count, pairs // total, pairs % total, weight.float(), mass, is_global)


def of_chunks(parts: Sequence[CompressedTokens]) -> SourceWeights | None:
    """Return the joined sources of consecutive chunks; None if a chunk was not traced.

    In the result, the indices of pooled tokens continue from chunk to chunk.
    """
    sources = [part.sources for part in parts if part.sources is not None]
    if len(sources) < len(parts):
        return None
    firsts = accumulate(map(_pooled_tokens, parts), initial=0)
    return replace(
        joined([replace(each, source=each.source + first) for each, first in zip(sources, firsts, strict=False)]),
        source_mass=_concatenated([each.source_mass for each in sources]),
        is_global=_concatenated([each.is_global for each in sources]),
    )


def _concatenated(values: Sequence[Tensor | None]) -> Tensor | None:
    """Return the concatenated `values`; None if any of them is None."""
    present = [each for each in values if each is not None]
    return torch.cat(present) if len(present) == len(values) else None


def _pooled_tokens(kept: CompressedTokens) -> int:
    return len(kept.timestamps_s) * math.prod(kept.grid)


def _normalized(count: int, token: Tensor, source: Tensor, weight: Tensor) -> SourceWeights:
    """Return the sources without entries of weight 0; the weights of each token sum to 1."""
    weight = weight.detach()  # a record, even of weights through which gradients flow
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, token, weight)
    held = weight > 0
    return SourceWeights(count, token[held], source[held], weight[held] / total[token[held]])
