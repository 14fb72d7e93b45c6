"""What methods that merge inside the tower have in common: merging on to the budget, and where tokens came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.methods.subset import kept_tokens, pooled_cells
from aot.compression.ops.grid import places_of_patches
from aot.compression.ops.shares import of_patches
from aot.compression.ops.similarity import decision_dtype
from aot.types import Clip, CompressedTokens, MergedPatches, Provenance, Role, VisualTokens

__all__ = ["as_sequences", "merged_patches", "merged_tokens"]


def merged_patches(tokens: VisualTokens) -> MergedPatches:
    """
    Raises:
        ValueError: the tower has not merged.
    """
    if tokens.merged is None:
        raise ValueError("merged: expected tokens merged inside the tower, got patches")
    return tokens.merged


def as_sequences(tokens: VisualTokens, sequences: int = 1) -> MergingTokens:
    """What the tower has merged, ready to go on: so many sequences of equally many tokens, one after the other."""
    patches = merged_patches(tokens)
    sizes = patches.owner.flatten().bincount(minlength=len(tokens.features)).to(decision_dtype(tokens.features))
    owner, anchor = patches.owner.view(sequences, -1), patches.anchor.view(sequences, -1)
    before = torch.arange(sequences, device=owner.device)[:, None]
    return MergingTokens(
        tokens.features.view(sequences, -1, tokens.features.shape[-1]),
        sizes.view(sequences, -1),
        owner - before * anchor.shape[1],
        anchor - before * owner.shape[1],
    )


def merged_tokens(tokens: VisualTokens, kept: MergingTokens, clips: Sequence[Clip]) -> CompressedTokens:
    """The one sequence `kept` by the mean index of each token's patches, each token at the cell of its anchor.

    mass counts patches in units of pooled tokens, so that all masses sum up to F * n; a merged token is one of several
    patches. Provenance adds up patches by the pooled tokens in whose cells they lie.

    Raises:
        BudgetError: nothing is kept.
    """
    merged = merged_patches(tokens)
    sizes, owner = kept.sizes[0], kept.owner[0]
    index = torch.arange(len(owner), dtype=sizes.dtype, device=owner.device)
    order = (torch.zeros_like(sizes).scatter_add_(0, owner, index) / sizes).argsort(stable=True)
    frames, per_frame = pooled_cells(tokens)
    grid, pooling = tokens.grid, tokens.pool

    def provenance() -> Provenance:
        places = places_of_patches(torch.arange(len(owner)), grid, pooling)
        return of_patches(places.view(frames, -1), frames * per_frame, owner, order)

    result = kept_tokens(
        tokens,
        kept.states[0, order],
        places_of_patches(kept.anchor[0, order], grid, pooling),
        mass=sizes[order] * (frames * per_frame / len(owner)),
        clips=clips,
        facts={"tower_tokens": len(tokens.features), "tower_share": round(merged.tower_share, 4)},
        provenance=provenance,
    )
    role = torch.where(sizes[order] > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8)
    return replace(result, role=role)
