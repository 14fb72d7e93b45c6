"""PruneVid inside the language model (arXiv 2412.16117): stage B, one drop by the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop
from aot.compression.ops.budget import spread_rows
from aot.compression.ops.clips import clip_bounds
from aot.compression.ops.group_means import group_sizes
from aot.compression.ops.padding import true_indices
from aot.compression.ops.similarity import decision_dtype
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["PruneVidInner"]


@dataclass(frozen=True)
class PruneVidInner(OneDrop):
    """Keep, in each segment and frame, the share of tokens that the question attends to most.

    Before `layer`, tokens are ranked by the attention received from the text after the video, in
    the preceding layer (the paper's M). The attention is computed without rotary positions and
    without the causal mask; the score is the maximum over heads and text tokens. From the static
    tokens of each segment and from the dynamic tokens of each frame, the share `keep` is kept. The
    dropped tokens are also removed from the KV caches of earlier layers.

    A token in the first frame of a clip of W > 1 frames counts as static if its mass is a multiple
    of W. Stage A (--method prunevid) gives static tokens such masses.
    """

    card: ClassVar = Card(
        "before layer 11 of 28",
        "arXiv 2412.16117, ACL Findings 2025",
        remark="the tokens that the question attends to most, a share of every segment and frame",
    )

    layer: int = setting(11, "Layer before which tokens are dropped; the paper's M + 1.", least=1)
    keep: float = setting(
        0.4, "Share that is kept, rounded so that round(keep * m) of all m tokens are.", above=0, most=1
    )
    paper_exact: bool = setting(False, "Truncate the count of every set instead.")

    def reduce(self, state: State) -> Reduction:
        """Drop the tokens of each set (`_groups`) that the question attends to least."""
        # 1. Compute the attention received from the question.
        received = state.attention(state.question, rotary=False, causal=False)[:, :, state.visual].amax((0, 1))
        # 2. Rank each token in its set: sort by attention, then stably by set.
        group, sets = _groups(state), 2 * len(state.tokens.timestamps_s)
        order = received.sort(descending=True, stable=True).indices
        order = order[group[order].sort(stable=True).indices]
        sizes = group_sizes(group, sets)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group[order]]
        # 3. Drop the tokens whose rank is beyond the share of their set. Published counts are read.
        total = max(round(self.keep * len(order)), 1)
        shares = spread_rows(torch.full_like(sizes[:1], total), sizes[None])[0]
        if self.paper_exact:
            truncated = (self.keep * sizes.to(decision_dtype(sizes))).long()
            # If truncation would leave no token in any set, use the exact counts.
            shares = torch.where(truncated.any(), truncated, shares)
            total = int(shares.sum())
        is_dropped = rank >= shares[group[order]]
        dropped = order[true_indices(is_dropped, len(order) - total)].sort().values
        return Reduction(state.visual[dropped], forgotten=True)


def _groups(state: State) -> Tensor:
    """Return the index of each visual token's set, int64 [V], ascending in video order.

    The static tokens of a clip form one set; the dynamic tokens of each frame form one set.
    """
    # Find, for every frame, the first frame and the number of frames of its clip.
    frame = state.frame
    opening, frames = (values[frame] for values in clip_bounds(state.tokens.clips, frame.device))
    # Decide by mass, because compressed tokens do not record which tokens are static.
    is_static = (frames > 1) & (frame == opening) & (state.mass >= frames) & (state.mass % frames == 0)
    # Two sets per frame, static before dynamic; some have no tokens.
    return 2 * frame + ~is_static
