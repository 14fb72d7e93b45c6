"""What AOT's tokens are made of, told in pooled tokens: both phases are weighted sums, and so is what they make."""

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

_LEAST_SHARE = 1e-3  # Phase I spreads the mass of one token over a whole frame, which says nothing of any single place


@dataclass(frozen=True, slots=True)
class AnchorComposition:
    """All that decides it. cells, emitted and clips: of the kept tokens. weights: what each kept cell takes of its
    frame's patches [F, P, N], None where Phase I moved nothing. absorbed: of `ClipTransport`. ranking, anchors (how
    many were asked for) and local_ratio: as they were chosen.
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

    def sources(self) -> SourceWeights:
        """Return the source weights above a thousandth."""
        own = self._of_frames()
        entries = zip(self._unmerged(own), self._merged(own), strict=True)
        token, source, weight = (torch.cat(each) for each in entries)
        cell = self.cells.index[self.emitted.frame, self.emitted.place]
        is_global = self._global_anchors()[self.emitted.frame, cell]
        return SourceWeights(len(cell), token, source, weight, is_global=is_global)

    def _of_frames(self) -> Tensor:
        """What the kept cells hold of their frames' pooled tokens after Phase I: [F, P, n]."""
        weights, device = self.weights, self.cells.index.device
        per_frame = math.prod(pooled_grid(self.grid, self.pool))
        if weights is None:
            return functional.one_hot(self.cells.index, per_frame).float()
        cell_of_patch = cells_of_patches(self.grid, self.pool).to(device)
        return weights.new_zeros(*weights.shape[:2], per_frame).index_add_(2, cell_of_patch, weights)

    def _unmerged(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        token = (self.emitted.clip < 0).nonzero()[:, 0]
        frame, place = self.emitted.frame[token], self.emitted.place[token]
        shares = own[frame, place]
        row, cell = (shares > _LEAST_SHARE).nonzero(as_tuple=True)
        return token[row], frame[row] * own.shape[2] + cell, shares[row, cell]

    def _merged(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        taken = merged_shares(self.absorbed, len(self.clips), own)
        firsts = torch.tensor([clip.first for clip in self.clips], device=own.device)
        offsets = torch.arange(taken.shape[2], device=own.device)
        members = (firsts[:, None] + offsets).clamp_max(len(own) - 1)  # after a clip's end nothing was absorbed
        token = (self.emitted.clip >= 0).nonzero()[:, 0]
        clip, place = self.emitted.clip[token], self.emitted.place[token]
        shares = torch.einsum("cpjs,cjsn->cpjn", taken, own[members])[clip, place]
        row, offset, cell = (shares > _LEAST_SHARE).nonzero(as_tuple=True)
        return token[row], (firsts[clip[row]] + offset) * own.shape[2] + cell, shares[row, offset, cell]

    def _global_anchors(self) -> Tensor:
        """The cells with more of global anchors than of local ones: bool [F, n]."""
        local = self.ranking.local(self.anchors, self.local_ratio)
        others = self.ranking.select(self.anchors, self.local_ratio) & ~local
        votes = pool(torch.stack([local, others], -1).float(), self.grid, self.pool)
        return votes[..., 1] > votes[..., 0]


def merged_shares(absorbed: Sequence[Tensor], clips: int, like: Tensor) -> Tensor:
    """What every keyframe token holds of the tokens of each frame of its clip: [C, P, L, P], L - 1 times `absorbed`."""
    size = like.shape[1]
    shares = like.new_zeros(clips, size, len(absorbed) + 1, size)
    shares[:, :, 0] = torch.eye(size)
    for offset, moved in enumerate(absorbed, 1):
        mass = 1 + moved.sum(1).to(like.dtype)
        shares /= mass[:, :, None, None]
        shares[:, :, offset] = moved.mT.to(like.dtype) / mass[..., None]
    return shares
