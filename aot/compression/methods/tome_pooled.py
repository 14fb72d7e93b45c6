"""ToMe on pooled tokens: merge similar tokens of each frame in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.per_frame import FrameTokens, equal_shares, joined_frames
from aot.compression.methods.subset import pooled_cells, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.soft_matching import match_pairs, merge_matched
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["PooledTokenMerging"]


@dataclass(frozen=True)
class PooledTokenMerging(CheckedSettings):
    """Merge similar pooled tokens of each frame in rounds, by bipartite soft matching.

    Other papers use such a variant of ToMe for comparison. In every round, each token with an even
    index is matched with the most similar token with an odd index. The most similar pairs are
    replaced by their means, weighted by mass. A merged token has the cell of the member that
    absorbed the other members. Tokens are sorted by the mean index of their members. The budget is
    exact: frames have equal shares, and the first frames keep one token more if needed.

    There is no published code for video. ToMe itself (arXiv 2210.09461) merges inside the vision
    tower, by similarity of keys.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2210.09461, ICLR 2023",
        remark="each frame's tokens, the most similar pairs merged round by round",
    )
    needs: ClassVar = Needs()

    merged_share: float = setting(
        0.5, "Greatest share of a frame's tokens that disappears in one round.", above=0, most=0.5
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        # Frames with equal shares form one batch.
        frames, per_frame = pooled_cells(tokens)
        features = pool(tokens.features, tokens.grid, tokens.pool)
        shares = equal_shares(frames, per_frame, budget)
        parts = [
            (run, self._merge(features[run.first : run.stop], share, traced=tokens.traced)) for run, share in shares
        ]
        return joined_frames(tokens, parts, {"rounds": max(len(self._rounds(per_frame, share)) for _, share in shares)})

    def _rounds(self, count: int, share: int) -> list[int]:
        """Return how many of `count` tokens each round removes until `share` tokens are left."""
        rounds = []
        while count > share:
            # At least one token per round, and no more than needed.
            rounds.append(min(max(1, int(count * self.merged_share)), count - share))
            count -= rounds[-1]
        return rounds

    def _merge(self, features: Tensor, share: int, *, traced: bool) -> FrameTokens:
        """Merge `features` [f, n, D] down to `share` tokens per frame; add weights if `traced`."""
        frames, count = features.shape[:2]
        own = cell = torch.arange(count, device=features.device).expand(frames, count)
        mean_index = cell[..., None].to(working_dtype(features))
        mass = torch.ones_like(mean_index[..., 0])
        targets = []
        for merges in self._rounds(count, share):
            target = match_pairs(features, merges).target
            targets.append(target)
            # First merge the mean index, because it needs the masses before this round.
            mean_index = merge_matched(mean_index, mass, target, merges)[0]
            features, mass, stays = merge_matched(features, mass, target, merges)
            cell = cell.gather(1, stays)
        # Sort by the mean index of the members.
        order = mean_index[..., 0].sort(dim=-1, stable=True).indices
        return FrameTokens(features, cell, mass, _members(own, targets) if traced else None).ordered(order)


def _members(owner: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Return [f, S, n]: 1 if pooled token j (axis 2) is part of kept token k (axis 1), else 0.

    `owner` [f, n] holds the token indices 0 .. n - 1 of each frame. `targets` holds, for each
    round, the index of the token into which each token is merged (its own index if it stays).
    """
    for target in targets:
        # In every round, renumber the remaining tokens without gaps.
        stays = target == torch.arange(target.shape[1], device=target.device)
        owner = (stays.cumsum(1) - 1).gather(1, target).gather(1, owner)
    return functional.one_hot(owner).mT
