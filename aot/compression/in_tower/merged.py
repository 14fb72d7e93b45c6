"""Provide shared steps of methods that merge inside the tower: the last merges, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.methods.subset import kept_tokens, pooled_cells
from aot.compression.ops.grid import tokens_of_patches
from aot.compression.ops.similarity import decision_dtype
from aot.compression.ops.source_weights import of_patches
from aot.types import Clip, CompressedTokens, MergedPatches, Role, VisualTokens

__all__ = ["as_sequences", "merged_patches", "merged_tokens"]


def merged_patches(tokens: VisualTokens) -> MergedPatches:
    """Return `tokens.merged`, the record of the merges in the vision tower.

    Raises:
        ValueError: If the tower has not merged.
    """
    if tokens.merged is None:
        raise ValueError("merged: expected tokens merged inside the tower, got patches")
    return tokens.merged


def as_sequences(tokens: VisualTokens, sequences: int = 1) -> MergingTokens:
    """Convert the tokens that the tower merged to `MergingTokens`, so that more can be merged.

    The tokens are divided into `sequences` consecutive sequences of equal length.
    """
    patches = merged_patches(tokens)
    # A token's size is the number of its patches.
    owners = patches.owner.flatten()
    sizes = owners.new_zeros(len(tokens.features)).index_add_(0, owners, torch.ones_like(owners))
    sizes = sizes.to(decision_dtype(tokens.features))
    owner, anchor = patches.owner.view(sequences, -1), patches.anchor.view(sequences, -1)
    before = torch.arange(sequences, device=owner.device)[:, None]
    # Owners (tokens) and anchors (patches) count from the start of their sequence.
    return MergingTokens(
        tokens.features.view(sequences, -1, tokens.features.shape[-1]),
        sizes.view(sequences, -1),
        owner - before * anchor.shape[1],
        anchor - before * owner.shape[1],
    )


def merged_tokens(tokens: VisualTokens, kept: MergingTokens, clips: Sequence[Clip]) -> CompressedTokens:
    """Return the tokens of `kept` (one sequence), each at the pooled cell of its anchor patch.

    Tokens are sorted by the mean index of their patches. The mass of a token is its number of
    patches times n / N, so all masses sum to F * n. A token of several patches has the role MERGED.
    If the run is traced, source weights are the shares of a token's patches in each pooled cell.

    Raises:
        BudgetError: If `kept` has no tokens.
    """
    merged = merged_patches(tokens)
    sizes, owner = kept.sizes[0], kept.owner[0]
    # 1. Sort by the mean index of each token's patches.
    index = torch.arange(len(owner), dtype=sizes.dtype, device=owner.device)
    order = (torch.zeros_like(sizes).scatter_add_(0, owner, index) / sizes).argsort(stable=True)
    frames, per_frame = pooled_cells(tokens)
    # 2. Build the tokens in this order, at the cells of their anchors.
    result = kept_tokens(
        tokens,
        kept.states[0, order],
        tokens_of_patches(kept.anchor[0, order], tokens.grid, tokens.pool),
        mass=sizes[order] * (frames * per_frame / len(owner)),
        clips=clips,
        facts={"tower_tokens": len(tokens.features), "tower_share": round(merged.tower_share, 4)},
        sources=of_patches(tokens, owner, order) if tokens.traced else None,
    )
    # A mass counts pooled tokens, not patches, so roles follow the number of patches instead.
    role = torch.where(sizes[order] > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8)
    return replace(result, role=role)
