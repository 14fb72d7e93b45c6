"""DyCoke's token reduction before the language model: of frames that repeat others, what differs (arXiv 2411.15024).

Its second part, which prunes the cache while decoding, is not a method: it acts inside the language model.
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
from aot.config.strict import check
from aot.errors import BudgetError
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["DyCoke", "compared_frames", "similarity_to_frames"]

_GROUP_FRAMES = 4


@dataclass(frozen=True)
class DyCoke:
    """Of every four frames the first whole, of the others the tokens least similar to an earlier frame of the four.

    The second and the third frame are compared with the first, the fourth with the third, all as they were. Whole
    frames are in raster order, the others by ascending similarity, as published.

    paper_exact: drop the share `prune_rate` of the tokens of a compared frame, whatever the budget; leave the third
    frame of the last four whole, and the last of an odd number of frames out. prune_rate has no meaning otherwise.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2411.15024, CVPR 2025",
        remark="of every four frames the first whole, of the others the tokens least like an earlier one",
        least="0.25, every fourth frame whole",
    )
    needs: ClassVar = Needs()

    prune_rate: float = 0.7
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(prune_rate=(0 < self.prune_rate <= 1, f"must be in (0, 1], got {self.prune_rate}"))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens: what the whole frames leave is spread evenly over the others.

        Raises:
            BudgetError: the budget is below the whole frames, every fourth; or nothing is left of the single frame of a
                video with paper_exact.
        """
        frames, per_frame = pooled_cells(tokens)
        compared = compared_frames(frames, self.paper_exact)
        counts = self._published_counts(compared, per_frame) if self.paper_exact else _counts(tokens, compared, budget)
        counts_per_frame = torch.tensor(counts)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        similarity = similarity_to_frames(pooled, compared)
        similarity[counts_per_frame.to(similarity.device) == per_frame] = 0  # equals stay in raster order
        index = least_per_frame(similarity, counts_per_frame)
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=Clip.runs(frames, _GROUP_FRAMES))

    def _published_counts(self, compared: Sequence[int], per_frame: int) -> list[int]:
        if len(compared) == 1:
            raise BudgetError("dycoke as published leaves nothing of a single frame; set paper_exact to false")
        differing = int((1 - self.prune_rate) * per_frame)
        counts = [per_frame if frame == other else differing for frame, other in enumerate(compared)]
        return counts if len(counts) % 2 == 0 else [*counts[:-1], 0]


def compared_frames(frames: int, published: bool = False) -> list[int]:
    """The earlier frame that each frame is compared with, its own number where it stays whole.

    published: the third frame of the last four stays whole too.
    """
    compared = [frame - (0, 1, 2, 1)[frame % _GROUP_FRAMES] for frame in range(frames)]
    if published:
        for third in range(2, frames, _GROUP_FRAMES):
            if third - 2 >= frames - _GROUP_FRAMES:
                compared[third] = third
    return compared


def similarity_to_frames(pooled: Tensor, compared: Sequence[int]) -> Tensor:
    """Cosine of every token with the one at its place in the frame compared with: [F, n], 0 in whole frames.

    pooled: [F, n, D]. compared: F frame numbers, see `compared_frames`.
    """
    unit = functional.normalize(pooled.to(working_dtype(pooled)), dim=-1)
    pairs = [(frame, other) for frame, other in enumerate(compared) if frame != other]
    frame, other = torch.tensor(pairs, dtype=torch.int64, device=pooled.device).view(-1, 2).unbind(1)
    similarity = unit.new_zeros(unit.shape[:2])
    similarity[frame] = (unit[frame] * unit[other]).sum(-1)
    return similarity


def _counts(tokens: VisualTokens, compared: Sequence[int], budget: int) -> list[int]:
    """Tokens of every frame that make `budget` together."""
    frames, per_frame = pooled_cells(tokens)
    room = [0 if frame == other else per_frame for frame, other in enumerate(compared)]
    whole = room.count(0) * per_frame
    check_budget(tokens, budget, least=whole, why=" for dycoke, which keeps every fourth frame whole")
    shares = spread(min(budget, frames * per_frame) - whole, room)
    return [share if own_room else per_frame for share, own_room in zip(shares, room, strict=True)]
