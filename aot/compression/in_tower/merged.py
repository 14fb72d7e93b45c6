"""Shared steps of methods that merge inside the vision tower: the exact budget, and sources."""

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
    """Return what became of the patches in a vision tower that merges.

    Raises:
        ValueError: If the tower has not merged.
    """
    if tokens.merged is None:
        raise ValueError("merged: expected tokens merged inside the tower, got patches")
    return tokens.merged


def as_sequences(tokens: VisualTokens, sequences: int = 1) -> MergingTokens:
    """Return the tokens that the tower merged, so that merging can go on.

    They form `sequences` sequences of equally many tokens, one after the other.
    """
    patches = merged_patches(tokens)
    # A token's size is the number of its patches.
    sizes = patches.owner.flatten().bincount(minlength=len(tokens.features)).to(decision_dtype(tokens.features))
    owner, anchor = patches.owner.view(sequences, -1), patches.anchor.view(sequences, -1)
    before = torch.arange(sequences, device=owner.device)[:, None]
    # Owners and anchors count from the first token or patch of their sequence.
    return MergingTokens(
        tokens.features.view(sequences, -1, tokens.features.shape[-1]),
        sizes.view(sequences, -1),
        owner - before * anchor.shape[1],
        anchor - before * owner.shape[1],
    )


def merged_tokens(tokens: VisualTokens, kept: MergingTokens, clips: Sequence[Clip]) -> CompressedTokens:
    """Return the one sequence `kept` as compressed tokens, each at the cell of its anchor.

    Tokens are in the order of the mean index of their patches. Their mass counts patches in units
    of pooled tokens, so all masses sum up to F * n; a token of several patches is merged.
    Source weights sum up patches by the pooled cells in which they lie.

    Raises:
        BudgetError: If nothing is kept.
    """
    merged = merged_patches(tokens)
    sizes, owner = kept.sizes[0], kept.owner[0]
    # 1. The mean index of each token's patches.
    index = torch.arange(len(owner), dtype=sizes.dtype, device=owner.device)
    order = (torch.zeros_like(sizes).scatter_add_(0, owner, index) / sizes).argsort(stable=True)
    frames, per_frame = pooled_cells(tokens)
    # 2. The tokens in this order, at the cells of their anchors.
    result = kept_tokens(
        tokens,
        kept.states[0, order],
        tokens_of_patches(kept.anchor[0, order], tokens.grid, tokens.pool),
        mass=sizes[order] * (frames * per_frame / len(owner)),
        clips=clips,
        facts={"tower_tokens": len(tokens.features), "tower_share": round(merged.tower_share, 4)},
        sources=of_patches(tokens, owner, order) if tokens.traced else None,
    )
    # Masses are in units of pooled tokens, so roles follow the number of patches instead.
    role = torch.where(sizes[order] > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8)
    return replace(result, role=role)
