"""Compute source weights: the share of each pooled token in each kept token.

Both phases of AOT are weighted sums, so each kept token is a weighted sum of pooled tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.aot.anchors import AnchorRanking
from aot.compression.aot.cells import KeptCells
from aot.compression.aot.token_order import Emission
from aot.compression.ops.grid import cells_of_patches, pool, pooled_grid
from aot.types import Clip, Pooling, SourceWeights

__all__ = ["AnchorComposition", "merged_shares"]

_LEAST_SHARE = 1e-3  # Phase I spreads a mass of 1 over a whole frame; smaller shares are negligible


@dataclass(frozen=True, slots=True)
class AnchorComposition:
    """Hold all data that determine the source weights of the kept tokens.

    Attributes:
        weights: [F, P, N], the weights of patches in kept cells; None if Phase I moved nothing.
        absorbed: as in `ClipTransport`.
        anchors: the number of anchors per frame, as passed to `ranking.select`.
    """

    grid: tuple[int, int]
    pool: Pooling
    cells: KeptCells
    clips: Sequence[Clip]
    emitted: Emission
    weights: Tensor | None
    absorbed: Sequence[Tensor]
    ranking: AnchorRanking
    anchors: int
    local_ratio: float

    @torch.no_grad()
    def sources(self) -> SourceWeights:
        """Return all source weights above 0.001."""
        own = self._of_frames()
        entries = zip(self._unmerged(own), self._merged(own), strict=True)
        token, source, weight = (torch.cat(each) for each in entries)
        cell = self.cells.index[self.emitted.frame, self.emitted.slot]
        is_global = self._global_anchors()[self.emitted.frame, cell]
        return SourceWeights(len(cell), token, source, weight, is_global=is_global)

    def _of_frames(self) -> Tensor:
        """Return the shares of pooled tokens in the kept cells after Phase I: [F, P, n]."""
        # The share of a pooled token is the sum of the weights of the patches in its cell.
        weights, device = self.weights, self.cells.index.device
        per_frame = math.prod(pooled_grid(self.grid, self.pool))
        if weights is None:
            return functional.one_hot(self.cells.index, per_frame).float()
        cell_of_patch = cells_of_patches(self.grid, self.pool).to(device)
        return weights.new_zeros(*weights.shape[:2], per_frame).index_add_(2, cell_of_patch, weights)

    def _unmerged(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        token = (self.emitted.clip < 0).nonzero()[:, 0]
        frame, slot = self.emitted.frame[token], self.emitted.slot[token]
        shares = own[frame, slot]
        row, cell = (shares > _LEAST_SHARE).nonzero(as_tuple=True)
        return token[row], frame[row] * own.shape[2] + cell, shares[row, cell]

    def _merged(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        taken = merged_shares(self.absorbed, len(self.clips), own)
        firsts = torch.tensor([clip.first for clip in self.clips], device=own.device)
        offsets = torch.arange(taken.shape[2], device=own.device)
        members = (firsts[:, None] + offsets).clamp_max(len(own) - 1)  # after a clip's end nothing was absorbed
        token = (self.emitted.clip >= 0).nonzero()[:, 0]
        clip, slot = self.emitted.clip[token], self.emitted.slot[token]
        shares = torch.einsum("cpjs,cjsn->cpjn", taken, own[members])[clip, slot]
        row, offset, cell = (shares > _LEAST_SHARE).nonzero(as_tuple=True)
        return token[row], (firsts[clip[row]] + offset) * own.shape[2] + cell, shares[row, offset, cell]

    def _global_anchors(self) -> Tensor:
        """Return which cells pool more weight of global than of local anchors: bool [F, n]."""
        local = self.ranking.local(self.anchors, self.local_ratio)
        others = self.ranking.select(self.anchors, self.local_ratio) & ~local
        votes = pool(torch.stack([local, others], -1).float(), self.grid, self.pool)
        return votes[..., 1] > votes[..., 0]


def merged_shares(absorbed: Sequence[Tensor], clips: int, like: Tensor) -> Tensor:
    """Return the shares of all tokens of each clip in the clip's merged tokens: [C, P, L, P].

    Entry [c, p, j, s] is the share of token s in frame j of clip c in merged token p.

    Args:
        absorbed: as in `ClipTransport`, one tensor for each of L - 1 frames after the keyframe.
        clips: C, the number of clips.
        like: [F, P, ...], a tensor whose P, dtype and device the result has.
    """
    # Before the first transport, each keyframe token consists of itself.
    size = like.shape[1]
    shares = like.new_zeros(clips, size, len(absorbed) + 1, size)
    shares[:, :, 0] = torch.eye(size)
    for offset, moved in enumerate(absorbed, 1):
        # Divide the earlier shares by the new mass, as Y is divided.
        mass = 1 + moved.sum(1).to(like.dtype)
        shares /= mass[:, :, None, None]
        shares[:, :, offset] = moved.mT.to(like.dtype) / mass[..., None]
    return shares
