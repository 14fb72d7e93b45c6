"""Determine the fate of every pooled token."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from aot.types import CompressedTokens, Role, SourceWeights

__all__ = ["Fate", "fates", "sources_of"]


class Fate(IntEnum):
    """The fate of a pooled token."""

    DISCARDED = 0  # not kept; all kept tokens together hold less than half of it
    MERGED = 1  # not kept; all kept tokens together hold at least half of it
    KEPT = 2  # kept unchanged
    GATHERED = 3  # kept, with others merged into it
    LOCAL_ANCHOR = 4  # AOT: kept for the attention it received within its window
    GLOBAL_ANCHOR = 5  # AOT: kept for the attention it received in its frame
    DISTINCT = 6  # kept because it changed since the keyframe


def sources_of(tokens: CompressedTokens) -> SourceWeights:
    """Return the sources of the tokens of a traced run.

    Raises:
        ValueError: If the run was not traced.
    """
    if tokens.sources is None:
        raise ValueError("sources: expected those of a traced run, got None")
    return tokens.sources


def fates(tokens: CompressedTokens) -> Tensor:
    """Return the fate of every pooled token, uint8 [F, n], values of `Fate`.

    A kept token with mass m, in which a pooled token has the weight w, holds m * w of this pooled
    token. A pooled token that is not kept is merged if all kept tokens together hold at least half
    of its mass, and otherwise discarded.

    Raises:
        ValueError: If the run was not traced.
    """
    sources = sources_of(tokens)
    # 1. Merged or discarded, by the part of each pooled token that is held.
    frames, per_frame = len(tokens.timestamps_s), math.prod(tokens.grid)
    cell, role, mass = tokens.cell.cpu(), tokens.role.cpu(), tokens.mass.cpu()
    held = torch.zeros(frames * per_frame).index_add_(0, sources.source, sources.weight * mass[sources.token])
    whole = 1 if sources.source_mass is None else sources.source_mass
    fate = torch.where(held >= whole / 2, int(Fate.MERGED), int(Fate.DISCARDED))
    # 2. Kept tokens; later assignments are more specific and override earlier ones.
    fate[cell[role != Role.MERGED]] = int(Fate.KEPT)
    merged, distinct = cell[role == Role.MERGED], cell[role == Role.DISTINCT]
    fate[merged] = int(Fate.GATHERED)
    if sources.is_global is not None:
        fate[cell] = torch.where(sources.is_global, int(Fate.GLOBAL_ANCHOR), int(Fate.LOCAL_ANCHOR))
    fate[distinct] = int(Fate.DISTINCT)
    return fate.to(torch.uint8).view(frames, per_frame)
