"""DyCoke (arXiv 2411.15024): token reduction before the language model (TTM in the paper).

The second part of the paper, which prunes the KV cache during decoding, is not implemented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, kept_tokens, pooled_cells
from aot.compression.ops.budget import spread
from aot.compression.ops.grid import pool
from aot.compression.ops.quotas import least_per_frame
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.errors import BudgetError
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["DyCoke", "compared_frames", "similarity_to_frames"]

_GROUP_FRAMES = 4


@dataclass(frozen=True)
class DyCoke(CheckedSettings):
    """Keep every fourth frame whole, and in the other frames the tokens that changed most.

    Frames form groups of four. The second and third frame of a group are compared with the first
    frame, the fourth frame with the third; all comparisons use the original features. In a compared
    frame, the tokens with the lowest cosine similarity to the same cell of the earlier frame are
    kept. Tokens of whole frames are in raster order, tokens of compared frames in order of
    ascending similarity, as published.

    With `paper_exact`, the third frame of the last group stays whole too, and the last frame of an
    odd number of frames is dropped.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2411.15024, CVPR 2025",
        remark="every fourth frame whole, and of the others the tokens least similar to an earlier frame",
        least="0.25, as every fourth frame stays whole",
    )
    needs: ClassVar = Needs()

    prune_rate: float = setting(
        0.7, "With `paper_exact`: share of a compared frame's tokens that is dropped.", above=0, most=1
    )
    paper_exact: bool = setting(False, "Use `prune_rate` whatever the budget is.")

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; compared frames equally share what whole frames leave.

        Raises:
            BudgetError: If `budget` is below the number of tokens in the whole frames, or if
                `paper_exact` would keep no token of a one-frame video.
        """
        frames, per_frame = pooled_cells(tokens)
        # 1. The number of tokens that every frame keeps.
        compared = compared_frames(frames, self.paper_exact)
        counts = self._published_counts(compared, per_frame) if self.paper_exact else _counts(tokens, compared, budget)
        # 2. The similarity of every token to the same cell of the other frame.
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        similarity = similarity_to_frames(pooled, compared)
        counts_per_frame = uploaded(torch.tensor(counts), similarity.device)
        # Whole frames stay in raster order.
        similarity = similarity.masked_fill(counts_per_frame[:, None] == per_frame, 0)
        # 3. The least similar tokens of every frame.
        index = least_per_frame(similarity, counts_per_frame, sum(counts))
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=Clip.runs(frames, _GROUP_FRAMES))

    def _published_counts(self, compared: Sequence[int], per_frame: int) -> list[int]:
        """Return the published token count of each frame, which does not depend on the budget."""
        if len(compared) == 1:
            raise BudgetError("dycoke with paper_exact keeps no token of a one-frame video; set paper_exact to false")
        differing = int((1 - self.prune_rate) * per_frame)
        counts = [per_frame if frame == other else differing for frame, other in enumerate(compared)]
        # The published loop takes frames in pairs and drops an unpaired last frame.
        return counts if len(counts) % 2 == 0 else [*counts[:-1], 0]


def compared_frames(frames: int, published: bool = False) -> list[int]:
    """Return, for each frame, the index of the frame to compare it with.

    A frame that stays whole has its own index. With `published`, the third frame of the last group
    stays whole too.
    """
    # In a group: 0 stays whole, 1 and 2 are compared with 0, and 3 with 2.
    compared = [frame - (0, 1, 2, 1)[frame % _GROUP_FRAMES] for frame in range(frames)]
    if published:
        # The published loop over groups ends before the last four frames.
        for third in range(2, frames, _GROUP_FRAMES):
            if third - 2 >= frames - _GROUP_FRAMES:
                compared[third] = third
    return compared


def _counts(tokens: VisualTokens, compared: Sequence[int], budget: int) -> list[int]:
    """Return the token count of every frame; the counts sum to min(`budget`, F * n)."""
    frames, per_frame = pooled_cells(tokens)
    room = [0 if frame == other else per_frame for frame, other in enumerate(compared)]
    whole = room.count(0) * per_frame
    check_budget(tokens, budget, least=whole, why=" for dycoke, which keeps every fourth frame whole")
    # The compared frames share the budget that the whole frames leave.
    shares = spread(min(budget, frames * per_frame) - whole, room)
    return [share if own_room else per_frame for share, own_room in zip(shares, room, strict=True)]


def similarity_to_frames(pooled: Tensor, compared: Sequence[int]) -> Tensor:
    """Return each token's cosine similarity to the same cell of the compared frame: [F, n].

    `pooled` is [F, n, D]. Frame f is compared with frame compared[f], or has 0 if this is f itself.
    """
    unit = functional.normalize(pooled.to(working_dtype(pooled)), dim=-1)
    # Whole frames need no product.
    pairs = [(frame, other) for frame, other in enumerate(compared) if frame != other]
    frame, other = uploaded(torch.tensor(pairs, dtype=torch.int64), pooled.device).view(-1, 2).unbind(1)
    return unit.new_zeros(unit.shape[:2]).index_copy_(0, frame, (unit[frame] * unit[other]).sum(-1))
