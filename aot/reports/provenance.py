"""Determine what kept tokens are made of, and the fate of every pooled token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

import torch
from torch import Tensor

from aot.types import CompressedTokens, Provenance, Role

__all__ = ["Fate", "Trace", "fates", "joined_origins", "origin_of"]


@dataclass(frozen=True, slots=True)
class Trace:
    """A run's data for pictures: the origin of its tokens, and a JPEG of each encoded frame."""

    origin: Provenance
    pictures: Sequence[bytes]


class Fate(IntEnum):
    """The fate of a pooled token."""

    DISCARDED = 0  # not kept; all kept tokens together hold less than half of it
    MERGED = 1  # not kept; all kept tokens together hold at least half of it
    KEPT = 2  # kept unchanged
    GATHERED = 3  # kept, with others merged into it
    LOCAL_ANCHOR = 4  # AOT: kept for the attention it received within its window
    GLOBAL_ANCHOR = 5  # AOT: kept for the attention it received in its frame
    DISTINCT = 6  # kept because it changed since the keyframe


def origin_of(tokens: CompressedTokens) -> Provenance:
    """Return the method's provenance on the CPU; without one, every token is made of itself."""
    if tokens.provenance is None:
        count = len(tokens.features)
        return Provenance(torch.arange(count), tokens.place.cpu(), torch.ones(count))
    origin = tokens.provenance()
    anchors, whole = (None if each is None else each.cpu() for each in (origin.global_anchors, origin.whole))
    return Provenance(origin.token.cpu(), origin.place.cpu(), origin.share.float().cpu(), anchors, whole)


def joined_origins(origins: Sequence[Provenance], parts: Sequence[CompressedTokens]) -> Provenance:
    """Join the provenance of consecutive chunks; indices count through all of them."""
    tokens = [0, *accumulate(len(part.features) for part in parts)]
    places = [0, *accumulate(len(part.timestamps_s) * math.prod(part.grid) for part in parts)]
    anchors = [each.global_anchors for each in origins if each.global_anchors is not None]
    wholes = [_whole(each, part) for each, part in zip(origins, parts, strict=True)]
    return Provenance(
        token=torch.cat([each.token + first for each, first in zip(origins, tokens, strict=False)]),
        place=torch.cat([each.place + first for each, first in zip(origins, places, strict=False)]),
        share=torch.cat([each.share for each in origins]),
        global_anchors=torch.cat(anchors) if anchors else None,
        whole=torch.cat(wholes) if any(each.whole is not None for each in origins) else None,
    )


def _whole(origin: Provenance, tokens: CompressedTokens) -> Tensor:
    """Return the mass of every pooled token, [F, n]."""
    shape = len(tokens.timestamps_s), math.prod(tokens.grid)
    return torch.ones(shape) if origin.whole is None else origin.whole


def fates(tokens: CompressedTokens, origin: Provenance) -> Tensor:
    """Return the fate of every pooled token, uint8 [F, n], values of `Fate`.

    A kept token of mass m holds m times its share of each pooled token. A pooled token that is not
    kept counts as merged if all kept tokens together hold at least half of it.
    """
    # 1. Merged or discarded, by how much of each token is held.
    whole = _whole(origin, tokens)
    place, role, mass = tokens.place.cpu(), tokens.role.cpu(), tokens.mass.cpu()
    held = torch.zeros(whole.numel()).index_add_(0, origin.place, origin.share * mass[origin.token])
    fate = torch.where(held >= whole.flatten() / 2, int(Fate.MERGED), int(Fate.DISCARDED))
    # 2. Kept tokens; later assignments are more specific and override earlier ones.
    fate[place[role != Role.MERGED]] = int(Fate.KEPT)
    merged, distinct = place[role == Role.MERGED], place[role == Role.DISTINCT]
    fate[merged] = int(Fate.GATHERED)
    if origin.global_anchors is not None:
        is_global = origin.global_anchors.flatten()[place]
        fate[place] = torch.where(is_global, int(Fate.GLOBAL_ANCHOR), int(Fate.LOCAL_ANCHOR))
    fate[distinct] = int(Fate.DISTINCT)
    return fate.to(torch.uint8).view_as(whole)
