"""ToMe on pooled tokens: similar tokens of a frame merge, round after round."""

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
    """Merge each frame's pooled tokens by bipartite soft matching, as a baseline of other papers.

    In every round, each token at an even index is matched with the most similar one at an odd
    index, and the best pairs become their mean, weighted by the number of merged tokens. Tokens are
    in the order of the mean index of their members, at the cell of the one that absorbed the
    others. The budget is exact: frames have equal shares, the first frames one token more if
    needed.

    There is no published program for video; ToMe itself (arXiv 2210.09461) merges inside the vision
    tower, by keys.
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
            BudgetError: If the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        # Frames with equal shares are one batch.
        frames, per_frame = pooled_cells(tokens)
        features = pool(tokens.features, tokens.grid, tokens.pool)
        shares = equal_shares(frames, per_frame, budget)
        parts = [
            (run, self._merge(features[run.first : run.stop], share, traced=tokens.traced)) for run, share in shares
        ]
        return joined_frames(tokens, parts, {"rounds": max(len(self._rounds(per_frame, share)) for _, share in shares)})

    def _rounds(self, count: int, share: int) -> list[int]:
        """Return how many of `count` tokens disappear in each round, until `share` are left."""
        rounds = []
        while count > share:
            # At least one token per round, and no more than needed.
            rounds.append(min(max(1, int(count * self.merged_share)), count - share))
            count -= rounds[-1]
        return rounds

    def _merge(self, features: Tensor, share: int, *, traced: bool) -> FrameTokens:
        """Return `share` tokens of each frame of features [f, n, D]; traced: with weights."""
        frames, count = features.shape[:2]
        own = cell = torch.arange(count, device=features.device).expand(frames, count)
        mean_index = cell[..., None].to(working_dtype(features))
        mass = torch.ones_like(mean_index[..., 0])
        targets = []
        for merges in self._rounds(count, share):
            target = match_pairs(features, merges).target
            targets.append(target)
            # The mean index first: it is weighted by the masses before this round.
            mean_index = merge_matched(mean_index, mass, target)[0]
            features, mass, stays = merge_matched(features, mass, target)
            cell = cell.gather(1, stays)
        # In the order of the members' mean index.
        order = mean_index[..., 0].sort(dim=-1, stable=True).indices
        return FrameTokens(features, cell, mass, _members(own, targets) if traced else None).ordered(order)


def _members(owner: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Return 1 where a pooled token is part of a remaining one, else 0: [f, S, n].

    owner: [f, n], the indices before the rounds. targets: those of `match_pairs`, by round.
    """
    for target in targets:
        # What stays is numbered anew, without gaps, in every round.
        stays = target == torch.arange(target.shape[1], device=target.device)
        owner = (stays.cumsum(1) - 1).gather(1, target).gather(1, owner)
    return functional.one_hot(owner).mT
