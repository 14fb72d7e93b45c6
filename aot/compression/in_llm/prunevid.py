"""PruneVid's part inside the language model (arXiv 2412.16117): stage B, by the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop
from aot.compression.ops.budget import spread
from aot.config.setting import setting
from aot.plugins import Card

__all__ = ["PruneVidInner"]


@dataclass(frozen=True)
class PruneVidInner(OneDrop):
    """Keep the visual tokens that the question attends to most, a share of each segment and frame.

    Before `layer`, tokens are ranked by the attention they receive in layer - 1 (the paper's M)
    from the text after the video. It is computed without rotary positions and without the causal
    mask, as the maximum over heads and text tokens. The share `keep` is kept of the static tokens
    of each segment and of the dynamic tokens of each frame. The others also leave the KV caches of
    the layers that have run.

    A token counts as static if it is in the first frame of a clip of several frames and its mass is
    a multiple of their number, as the masses of stage A (--method prunevid) are.
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
        """Drop the tokens of each set that the question attends to least."""
        # 1. The attention received from the question.
        received = state.attention(state.question, rotary=False, causal=False)[:, :, state.visual].amax((0, 1))
        # 2. The rank of each token in its set: by attention, then stably by set.
        group = _groups(state)
        order = received.sort(descending=True, stable=True).indices
        order = order[group[order].sort(stable=True).indices]
        sizes = torch.bincount(group)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group[order]]
        # 3. What is beyond the share of its set is dropped.
        shares = torch.tensor(self._shares(sizes.tolist()), device=order.device)
        dropped = order[rank >= shares[group[order]]].sort().values
        return Reduction(state.visual[dropped], forgotten=True)

    def _shares(self, sizes: list[int]) -> tuple[int, ...]:
        """Return how many tokens of each set are kept."""
        shares = [int(self.keep * size) for size in sizes]
        # If truncation left no token at all, the exact counts are used.
        if self.paper_exact and any(shares):
            return tuple(shares)
        return spread(max(round(self.keep * sum(sizes)), 1), sizes)


def _groups(state: State) -> Tensor:
    """Return the set of each visual token, [V] numbers from 0 in the order of the video.

    The static tokens of a clip are a set, then the other tokens of each of its frames.
    """
    # The first frame and the number of frames of every frame's clip.
    first, length = (torch.zeros(len(state.tokens.timestamps_s), dtype=torch.int64) for _ in range(2))
    for clip in state.tokens.clips:
        first[clip.first : clip.stop], length[clip.first : clip.stop] = clip.first, len(clip)
    frame = state.frame
    opening, frames = (values.to(frame.device)[frame] for values in (first, length))
    # By mass, because compressed tokens do not record which are static.
    is_static = (frames > 1) & (frame == opening) & (state.mass >= frames) & (state.mass % frames == 0)
    # Two sets per frame, static before dynamic; unused numbers are closed up.
    numbers: Tensor = torch.unique(2 * frame + ~is_static, return_inverse=True)[1]
    return numbers
