"""ToMe on pooled tokens: similar tokens of a frame are merged, round after round, until the budget is met."""

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
from aot.config.strict import check
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["PooledTokenMerging"]


@dataclass(frozen=True)
class PooledTokenMerging:
    """Bipartite soft matching (arXiv 2210.09461) of each frame's pooled tokens, as the baseline of other papers.

    In every round tokens at even places look for the most similar one at an odd place, and the best pairs become
    their mean, weighted by how many tokens each stands for; at most `merged_share` of a frame's tokens disappear in a
    round. Tokens come in the order of the mean place of their members, each placed where the one is that absorbed the
    others. Budgets are exact: equal shares, for the first frames one more if it must be.

    There is no published program for video; ToMe itself merges inside the vision tower, by keys.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2210.09461, ICLR 2023",
        remark="each frame's tokens, the most similar pairs merged round by round",
    )
    needs: ClassVar = Needs()

    merged_share: float = 0.5

    def __post_init__(self) -> None:
        check(merged_share=(0 < self.merged_share <= 0.5, f"must be in (0, 0.5], got {self.merged_share}"))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens.

        Raises:
            BudgetError: the budget is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        frames, per_frame = pooled_cells(tokens)
        features = pool(tokens.features, tokens.grid, tokens.pool)
        shares = equal_shares(frames, per_frame, budget)
        parts = [(run, self._merge(features[run.first : run.stop], share)) for run, share in shares]
        return joined_frames(tokens, parts, {"rounds": max(len(self._rounds(per_frame, share)) for _, share in shares)})

    def _rounds(self, count: int, share: int) -> list[int]:
        """How many of `count` tokens disappear in each round until `share` are left."""
        rounds = []
        while count > share:
            rounds.append(min(max(1, int(count * self.merged_share)), count - share))
            count -= rounds[-1]
        return rounds

    def _merge(self, features: Tensor, share: int) -> FrameTokens:
        """`share` tokens of each frame of features [f, n, D]."""
        frames, count = features.shape[:2]
        own = cell = torch.arange(count, device=features.device).expand(frames, count)
        mean_place = cell[..., None].to(working_dtype(features))
        mass = torch.ones_like(mean_place[..., 0])
        targets = []
        for merges in self._rounds(count, share):
            target = match_pairs(features, merges).target
            targets.append(target)
            mean_place = merge_matched(mean_place, mass, target)[0]
            features, mass, stays = merge_matched(features, mass, target)
            cell = cell.gather(1, stays)
        order = mean_place[..., 0].sort(dim=-1, stable=True).indices
        return FrameTokens(features, cell, mass, lambda: _members(own, targets)).ordered(order)


def _members(owner: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """1 where a frame's token is in the one that remains after rounds of `match_pairs`, else 0: [f, S, n].

    owner: [f, n], their numbers before.
    """
    for target in targets:
        stays = target == torch.arange(target.shape[1], device=target.device)
        owner = (stays.cumsum(1) - 1).gather(1, target).gather(1, owner)
    return functional.one_hot(owner).mT
