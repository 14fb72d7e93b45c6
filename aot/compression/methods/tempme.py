"""TempMe (arXiv 2409.01156): merging in frames, then across frames, in the vision tower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from aot.compression.in_tower.merged import as_sequences, merged_tokens
from aot.compression.in_tower.merging_schedules import ClipShares, clip_merging, joins_for
from aot.compression.methods.subset import check_budget
from aot.config.schema import Config
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import BlockMerging, Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["TempMe", "TempMeSettings"]


@dataclass(frozen=True)
class TempMeSettings(CheckedSettings):
    """Shares of tokens that are merged, as published for 12 blocks.

    All shares are raised or lowered together until the budget is met.
    """

    image_share: float = setting(
        16 / 49, "Share of a frame's patches, in all blocks before the clip blocks together.", above=0, below=1
    )
    across_share: float = setting(
        0.3, "Share of the tokens of joined frames, in a clip block before its attention.", above=0, below=1
    )
    within_share: float = setting(
        0.1, "Share of the remaining tokens, in a clip block after its attention.", above=0, below=1
    )
    later_share: float = setting(0.1, "Share of the tokens, in each block after the clip blocks.", above=0, below=1)

    @property
    def kept(self) -> ClipShares:
        """Return the shares that every step keeps."""
        return ClipShares(1 - self.image_share, 1 - self.across_share, 1 - self.within_share, 1 - self.later_share)


@dataclass(frozen=True)
class TempMe:
    """Merge similar tokens inside the vision tower by bipartite soft matching.

    The early blocks merge within frames, by keys. Then three clip blocks join 2, 2 and 3 clips of
    frames: they merge across the clips by the block's input, before attention, and within the
    joined clip by keys, after attention. The later blocks merge within the clip.

    The clip blocks are those at the relative depth of blocks 8, 9 and 10 of the published 12. A
    clip is the 12 frames so joined; the rest of a video ends in the longest clips that can be
    joined evenly (8, 6, 4, 3, 2 or 1 frames). This is the training-free part: no low-rank adapters,
    no position embeddings of clips, and no class token.
    """

    card: ClassVar = Card(
        "inside the vision tower",
        "arXiv 2409.01156, ICLR 2025",
        remark="similar tokens merged in frames, then across frames, so that encoding is faster too; without training",
    )
    settings_type: ClassVar = TempMeSettings

    ratio: float
    settings: TempMeSettings = TempMeSettings()

    @classmethod
    def from_config(cls, config: Config, settings: TempMeSettings) -> TempMe:
        """Return the method for the ratio of the configuration."""
        return cls(config.ratio, settings)

    @property
    def needs(self) -> Needs:
        """Return the need for a vision tower that merges by `plan`."""
        return Needs(merging=self)

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Return consecutive clips, each the longest that its frames can be joined to evenly."""
        # 12 frames, or the longest shorter clip at the end.
        joined, clips, first = self.settings.kept.joined, [], 0
        while first < frames:
            most = min(math.prod(joined), frames - first)
            length = next(length for length in range(most, 0, -1) if joins_for(length, joined))
            clips.append(Clip(first, first + length))
            first += length
        return tuple(clips)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return the merges of every block.

        The tower leaves one token more than a clip's share, so that an exact budget never asks for
        more tokens than it left.
        """
        # Never more than there are patches: merging cannot add tokens.
        target = math.floor(self.ratio * frames * tokens_per_frame) + 1
        return clip_merging(frames, patches, min(target, frames * patches), blocks, self.settings.kept)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or all that the tower left if these are fewer.

        The few tokens above the budget are merged by similarity, across all clips.

        Raises:
            BudgetError: If the budget is 0.
        """
        check_budget(tokens, budget)
        kept = as_sequences(tokens)
        # By the states: the tower is left, so there are no keys.
        kept = kept.merge(kept.states, max(0, kept.count - budget))
        return merged_tokens(tokens, kept, self.clips(len(tokens.timestamps_s)))
