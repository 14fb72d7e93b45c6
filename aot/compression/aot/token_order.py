"""Which of AOT's tokens are said, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aot.compression.aot.cells import KeptCells
from aot.types import Clip, Role

__all__ = ["Emission", "emission"]


@dataclass(frozen=True, slots=True)
class Emission:
    """Every kept token in reading order, [K] each: frame (of a merged one, its keyframe); place among the frame's kept
    cells; the clip whose merged keyframe it belongs to, or -1; values of `Role`, uint8.
    """

    frame: Tensor
    place: Tensor
    clip: Tensor
    role: Tensor

    def of(self, own: Tensor, merged: Tensor) -> Tensor:
        """What belongs to each token [K, ...], from own [F, P, ...] and merged [C, P, ...]."""
        of_own, of_merged = own[self.frame, self.place], merged[self.clip.clamp_min(0), self.place]
        return torch.where((self.clip >= 0).view(-1, *[1] * (own.ndim - 2)), of_merged, of_own)


def emission(
    cells: KeptCells, copies: Sequence[int], clips: Sequence[Clip], distinct: Tensor, keyframe: str
) -> Emission:
    """Clip by clip (docs/algorithm.md, section 4): the keyframe as it was, the later frames' distinct tokens in time
    and raster order, the merged keyframe last; a merged keyframe that replaces the original takes its place.

    copies: how often each clip's keyframe is said. distinct: bool [F, P]. keyframe: "both", "original" or "merged".
    """
    device = distinct.device
    keyframes = torch.tensor([clip.first for clip in clips], device=device)
    lengths = torch.tensor([len(clip) for clip in clips], device=device)
    several = lengths > 1
    merged_only = several & (keyframe == "merged")
    merged_too = several & (torch.tensor(copies, device=device) == 2)
    shown = distinct.clone()
    shown[keyframes] = cells.valid[keyframes] & ~merged_only[:, None]
    clip_of_frame = torch.repeat_interleave(torch.arange(len(clips), device=device), lengths)

    frame, place = shown.nonzero(as_tuple=True)
    is_distinct = distinct[frame, place]
    own_role = torch.where(several[clip_of_frame[frame]], int(Role.KEYFRAME), int(Role.KEPT))
    role = torch.where(is_distinct, int(Role.DISTINCT), own_role)

    merging = merged_only | merged_too
    merged_clip, merged_place = (cells.valid[keyframes] & merging[:, None]).nonzero(as_tuple=True)
    turn = torch.where(merged_only, 0, 2)[merged_clip]

    order = torch.cat([clip_of_frame[frame] * 3 + is_distinct, merged_clip * 3 + turn]).argsort(stable=True)
    return Emission(
        frame=torch.cat([frame, keyframes[merged_clip]])[order],
        place=torch.cat([place, merged_place])[order],
        clip=torch.cat([torch.full_like(frame, -1), merged_clip])[order],
        role=torch.cat([role, torch.full_like(merged_clip, int(Role.MERGED))])[order].to(torch.uint8),
    )
