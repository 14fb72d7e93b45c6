"""Choose the tokens that AOT emits, and their order."""

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
    """Hold the kept tokens in reading order.

    Attributes:
        frame: [K], the frame of each token; for a merged token, the keyframe.
        slot: [K], the index of each token among the kept cells of its frame.
        clip: [K], the clip index of a merged token; -1 for other tokens.
        role: uint8 [K], values of `Role`.
    """

    frame: Tensor
    slot: Tensor
    clip: Tensor
    role: Tensor

    def of(self, own: Tensor, merged: Tensor) -> Tensor:
        """Return each token's value, [K, ...]: from `merged` for merged tokens, else from `own`.

        Args:
            own: [F, P, ...], the values of the kept cells.
            merged: [C, P, ...], the values of the merged tokens of each clip.
        """
        # Read both values for every token. For original tokens, clip 0 replaces -1.
        of_own, of_merged = own[self.frame, self.slot], merged[self.clip.clamp_min(0), self.slot]
        return torch.where((self.clip >= 0).view(-1, *[1] * (own.ndim - 2)), of_merged, of_own)


def emission(
    cells: KeptCells, copies: Sequence[int], clips: Sequence[Clip], distinct: Tensor, keyframe: str
) -> Emission:
    """Return the kept tokens of all clips, clip by clip (docs/algorithm.md, section 4).

    A clip emits the original tokens of its keyframe, then the distinct tokens of later frames, then
    the merged tokens if `copies` is 2 for the clip. Tokens of a frame are in raster order. If
    `keyframe` is "merged", the merged tokens replace the original tokens at the start. A clip of
    one frame emits its original tokens.

    `copies` has 1 or 2 for each clip: how often the keyframe is emitted. `distinct` is bool [F, P].
    `keyframe` is "both", "original" or "merged".
    """
    device = distinct.device
    keyframes = torch.tensor([clip.first for clip in clips], device=device)
    lengths = torch.tensor([len(clip) for clip in clips], device=device)
    # 1. Original tokens: distinct tokens, and keyframe tokens unless merged tokens replace them.
    several = lengths > 1
    merged_only = several & (keyframe == "merged")
    merged_too = several & (torch.tensor(copies, device=device) == 2)
    shown = distinct.clone()
    shown[keyframes] = cells.valid[keyframes] & ~merged_only[:, None]
    clip_of_frame = torch.repeat_interleave(torch.arange(len(clips), device=device), lengths)

    frame, slot = shown.nonzero(as_tuple=True)
    is_distinct = distinct[frame, slot]
    own_role = torch.where(several[clip_of_frame[frame]], int(Role.KEYFRAME), int(Role.KEPT))
    role = torch.where(is_distinct, int(Role.DISTINCT), own_role)

    # 2. Merged tokens, for the clips that emit merged tokens.
    merging = merged_only | merged_too
    merged_clip, merged_slot = (cells.valid[keyframes] & merging[:, None]).nonzero(as_tuple=True)
    stage = torch.where(merged_only, 0, 2)[merged_clip]

    # 3. Sort by clip, and within a clip by stage: 0 keyframe, 1 distinct, 2 merged.
    order = torch.cat([clip_of_frame[frame] * 3 + is_distinct, merged_clip * 3 + stage]).argsort(stable=True)
    return Emission(
        frame=torch.cat([frame, keyframes[merged_clip]])[order],
        slot=torch.cat([slot, merged_slot])[order],
        clip=torch.cat([torch.full_like(frame, -1), merged_clip])[order],
        role=torch.cat([role, torch.full_like(merged_clip, int(Role.MERGED))])[order].to(torch.uint8),
    )
