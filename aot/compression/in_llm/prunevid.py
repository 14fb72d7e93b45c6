"""PruneVid's second half (arXiv 2412.16117): what the question looks at, by content and not by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.in_llm.base import Reduction, State
from aot.compression.in_llm.one_drop import OneDrop
from aot.compression.ops.budget import spread
from aot.plugins import Card

__all__ = ["PruneVidInner"]


@dataclass(frozen=True)
class PruneVidInner(OneDrop):
    """Visual tokens are ranked by the attention they receive in layer - 1 (the paper's M) from the text behind the
    video, computed without rotary positions and without the causal mask: the maximum over heads and over the text.
    The share `keep` of the static tokens of each segment and of the dynamic ones of each frame goes on; the layers
    that have run forget the others too.

    Shares are rounded so that round(keep * m) of all m are kept; with `paper_exact` each is truncated. A token counts
    as static when it is in the first frame of a clip of several and stands for tokens of all its frames, a multiple of
    their number, as PruneVid's first half makes them.
    """

    card: ClassVar = Card(
        "before layer 11 of 28",
        "arXiv 2412.16117, ACL Findings 2025",
        remark="the tokens that the question attends to most, a share of every segment and frame",
    )

    layer: int = 11
    keep: float = 0.4
    paper_exact: bool = False

    def reduce(self, state: State) -> Reduction:
        received = state.attention(state.question, rotary=False, causal=False)[:, :, state.visual].amax((0, 1))
        group = _groups(state)
        order = received.sort(descending=True, stable=True).indices
        order = order[group[order].sort(stable=True).indices]
        sizes = torch.bincount(group)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group[order]]
        shares = torch.tensor(self._shares(sizes.tolist()), device=order.device)
        dropped = order[rank >= shares[group[order]]].sort().values
        return Reduction(state.visual[dropped], forgotten=True)

    def _shares(self, sizes: list[int]) -> tuple[int, ...]:
        shares = [int(self.keep * size) for size in sizes]
        if self.paper_exact and any(shares):
            return tuple(shares)
        return spread(max(round(self.keep * sum(sizes)), 1), sizes)


def _groups(state: State) -> Tensor:
    """[V] numbers from 0, in the order of the video: a clip's static tokens, then each frame's own."""
    first, length = (torch.zeros(len(state.tokens.timestamps_s), dtype=torch.int64) for _ in range(2))
    for clip in state.tokens.clips:
        first[clip.first : clip.stop], length[clip.first : clip.stop] = clip.first, len(clip)
    frame = state.frame
    opening, frames = (values.to(frame.device)[frame] for values in (first, length))
    is_static = (frames > 1) & (frame == opening) & (state.mass >= frames) & (state.mass % frames == 0)
    numbers: Tensor = torch.unique(2 * frame + ~is_static, return_inverse=True)[1]
    return numbers
