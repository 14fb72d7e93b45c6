"""ToMe: similar tokens of a frame merge in every block of the vision tower (arXiv 2210.09461)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from aot.compression.in_tower.merged import as_sequences, merged_tokens
from aot.compression.in_tower.merging_schedules import frame_merging
from aot.compression.in_tower.token_merging import MergingTokens
from aot.compression.methods.subset import check_budget, evenly
from aot.compression.ops.soft_matching import match_pairs
from aot.config.schema import Config
from aot.plugins import Card
from aot.types import BlockMerging, Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["ToMe", "ToMeSettings"]


@dataclass(frozen=True)
class ToMeSettings:
    """schedule: "constant" merges equally many tokens in every block, "linear" from twice as many to none."""

    schedule: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True)
class ToMe:
    """Bipartite soft matching by keys between attention and MLP, and attention in proportion to sizes.

    The tower leaves every frame the tokens it is due, rounded up; `compress` merges the few too many by the same
    matching, in frames spread evenly over the video.
    """

    card: ClassVar = Card(
        "inside the vision tower",
        "arXiv 2210.09461, ICLR 2023",
        remark="each frame's tokens, similar ones merged in every block, so that encoding is faster too",
    )
    settings_type: ClassVar = ToMeSettings

    ratio: float
    settings: ToMeSettings = ToMeSettings()

    @classmethod
    def from_config(cls, config: Config, settings: ToMeSettings) -> ToMe:
        return cls(config.ratio, settings)

    @property
    def needs(self) -> Needs:
        return Needs(merging=self)

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Every frame merges on its own."""
        return Clip.runs(frames, 1)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Merges of every block, for a frame's share of any exact budget, rounded up."""
        due = math.ceil(self.ratio * tokens_per_frame - 1e-9)  # 0.1 * 30 is above 3
        return frame_merging(patches, min(max(due, 1), patches), blocks, self.settings.schedule)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or all that the tower left where they are fewer.

        Below one per frame, what is left of the frames merges across them.

        Raises:
            BudgetError: the budget is 0.
        """
        check_budget(tokens, budget)
        clips = self.clips(len(tokens.timestamps_s))
        by_frame = as_sequences(tokens, len(clips))
        merges = max(0, len(tokens.features) - budget)
        across = max(0, len(clips) - budget)
        kept = _merge_in_frames(by_frame, merges - across)
        return merged_tokens(tokens, kept.merge(kept.states, across, by_similarity=True), clips)


def _merge_in_frames(by_frame: MergingTokens, merges: int) -> MergingTokens:
    """So many tokens fewer, equally many in every frame but for one more in some, spread evenly; [1, T, D]."""
    frames = len(by_frame.states)
    each, more = divmod(merges, frames)
    by_frame = by_frame.merge(by_frame.states, each, by_similarity=True)
    whole = by_frame.joined(frames)
    if not more:
        return whole
    place = torch.arange(whole.count, device=whole.anchor.device).view(frames, -1)
    target, chosen = place.clone(), evenly(frames, more).to(place.device)
    target[chosen] = match_pairs(by_frame.states[chosen], 1).target + place[chosen, :1]
    return whole.merge_into(target.view(1, -1), more)
