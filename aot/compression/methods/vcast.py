"""V-CAST (arXiv 2603.27650): more tokens for frames at which the video turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, keep_all, kept_tokens
from aot.compression.ops.grid import pool
from aot.compression.ops.quotas import least_per_frame
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["VCast", "curvature", "shares_by_weight", "unusual_and_long"]

_LEAST_LENGTH = 1e-6  # as published, against division by zero
# Shorter steps from frame to frame count as none: in half precision they are nothing but rounding.
_LEAST_STEP = 1e-4


@dataclass(frozen=True)
class VCast(CheckedSettings):
    """Keep unusual and long vectors of every frame, and more of them where the video turns.

    The means of the frames are a path; a frame's share of the budget grows with the turn that the
    path takes there (0 straight on, 2 back). The two ends count as turns of 1. In a frame, the
    tokens with the highest scores are kept: 1 - cosine similarity to the mean of the frame, plus
    the norm, scaled to 0 .. 1 in the frame.

    The budget is exact. Every frame has one token, if `budget` suffices for that; the rest is
    shared by weight and rounded down. Tokens left over go to the largest fractions, one to each
    frame that is not full, and again from the start. As published, all of them go to the frame with
    the largest fraction until it is full, then to the next; and every frame keeps at least one
    token, whatever the budget.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2603.27650",
        remark="the tokens least like the mean of their frame, and the longest; frames at turns keep more",
    )
    needs: ClassVar = Needs()

    temperature: float = setting(
        0.7, "How evenly frames share the budget; the lower it is, the more goes to the sharpest turns.", above=0
    )
    paper_exact: bool = setting(
        False, "At least one token per frame, a video of one frame whole, and tokens left over to one frame at a time."
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        total = min(budget, frames * per_frame)
        if self.paper_exact:
            if frames == 1:
                return keep_all(tokens)
            total = max(total, frames)
        # 1. How unusual each token is, and the mean of each frame.
        scores, means = unusual_and_long(pooled)
        # 2. How sharply the path of the means turns, and each frame's share of the budget.
        turns = curvature(means, 0 if self.paper_exact else _LEAST_STEP)
        weights = (turns / self.temperature).softmax(0)
        counts = shares_by_weight(total, weights, per_frame, one_at_a_time=self.paper_exact)
        # 3. The highest scores of every frame, in raster order.
        index = least_per_frame(-scores, counts, total).sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index)


def unusual_and_long(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of tokens, [F, n] in [0, 3], and the directions of frames' means, [F, D].

    A score is 1 - cosine similarity to the mean, plus the norm scaled to 0 .. 1 in the frame.
    `pooled` is [F, n, D].
    """
    values = pooled.to(working_dtype(pooled))
    means = functional.normalize(values.mean(1), dim=-1, eps=_LEAST_LENGTH)
    norms = values.norm(dim=-1)
    cosine = (values @ means[:, :, None])[..., 0] / norms.clamp_min(_LEAST_LENGTH)
    shortest, longest = norms.amin(1, keepdim=True), norms.amax(1, keepdim=True)
    return 1 - cosine + (norms - shortest) / (longest - shortest + _LEAST_LENGTH), means


def curvature(means: Tensor, least_step: float) -> Tensor:
    """Return how sharply the path of `means` [F, D] turns at each frame: [F] in [0, 2].

    The value is 1 - cosine similarity of the step to a frame and the step after it. Steps shorter
    than `least_step` have no direction, so that a still video turns by 1 everywhere, like its ends.
    """
    steps = means.to(decision_dtype(means)).diff(dim=0)
    lengths = steps.norm(dim=-1, keepdim=True)
    directions = torch.where(lengths < least_step, 0, steps / lengths.clamp_min(_LEAST_LENGTH))
    ends = torch.ones_like(lengths[:1, 0]) if len(steps) else means.new_ones(1)
    turns = 1 - (directions[:-1] * directions[1:]).sum(-1)
    return torch.cat([ends, turns, ends])[: len(means)]


def shares_by_weight(total: int, weights: Tensor, most: int, *, one_at_a_time: bool = False) -> Tensor:
    """Divide `total` by `weights` [F] as V-CAST does: int64 [F], each at most `most`.

    Every share is at least 1 if `total` suffices. The rest is shared by weight and rounded down.
    What is left over goes to the largest fractions, ties to the lower index: one to each share
    below `most`, again from the start while any is left; with `one_at_a_time`, as much to each as
    it can hold before the next gets any.
    """
    least = int(total >= len(weights))
    ideal = weights / weights.sum() * (total - least * len(weights))
    shares = least + ideal.floor().to(torch.int64).clamp_max(most - least)
    order = (ideal - ideal.floor()).sort(descending=True, stable=True).indices
    room = (most - shares)[order]
    left = total - shares.sum()
    if one_at_a_time:
        added = torch.minimum(left - (room.cumsum(0) - room), room).clamp_min(0)
    else:
        # 1. As many whole rounds as the tokens suffice for: `held` in each number of rounds.
        rounds = torch.arange(most + 1, device=room.device)
        held = torch.minimum(room[:, None], rounds).sum(0)
        whole = (held <= left).sum() - 1
        added = torch.minimum(room, whole)
        # 2. One more in a round that does not go all the way.
        more = room > whole
        added = added + (more & (more.cumsum(0) <= left - added.sum()))
    return shares.scatter_add(0, order, added)
