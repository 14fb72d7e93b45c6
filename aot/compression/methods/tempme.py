"""TempMe (arXiv 2409.01156): merge in frames, then across frames, inside the vision tower."""

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
    """Hold the share of tokens that each step merges away, for a tower of 12 blocks.

    The defaults are as published. All shares are raised or lowered together to meet the budget.
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
        """Return the shares of tokens that each step keeps."""
        return ClipShares(1 - self.image_share, 1 - self.across_share, 1 - self.within_share, 1 - self.later_share)


@dataclass(frozen=True)
class TempMe:
    """Merge similar tokens inside the vision tower by bipartite soft matching.

    The early blocks merge within frames, by similarity of keys. Then come three clip blocks. The
    first and second each join 2 clips into one; the third joins 3, so a joined clip has 12 frames.
    A clip block merges across the clips before its attention, by similarity of the block's input,
    and within the joined clip after its attention, by similarity of keys. The later blocks merge
    within the joined clip.

    The clip blocks are at the same relative depth as the blocks with indices 8, 9 and 10 of 12 in
    the paper. Leftover frames at the end of a video form clips of 8, 6, 4, 3, 2 or 1 frames, the
    longest first, because only these lengths are products of such joins. This is the training-free
    part of the paper: no low-rank adapters, no position embeddings of clips, and no class token.
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
        """Return the method for `config.ratio`."""
        return cls(config.ratio, settings)

    @property
    def needs(self) -> Needs:
        """Return the need for a vision tower that merges as `plan` says."""
        return Needs(merging=self)

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Return clips of 12 frames, and at the end clips of 8, 6, 4, 3, 2 or 1 frames."""
        # 12 frames, or at the end the longest clip that can be joined evenly.
        joined, clips, first = self.settings.kept.joined, [], 0
        while first < frames:
            most = min(math.prod(joined), frames - first)
            length = next(length for length in range(most, 0, -1) if joins_for(length, joined))
            clips.append(Clip(first, first + length))
            first += length
        return tuple(clips)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return the merges of every block, for a clip of `frames` frames.

        The clip's share of the budget is rounded down, and the tower keeps one token more than
        that. So all clips together have enough tokens for the exact budget.
        """
        # At most the number of patches: merging cannot add tokens.
        target = math.floor(self.ratio * frames * tokens_per_frame) + 1
        return clip_merging(frames, patches, min(target, frames * patches), blocks, self.settings.kept)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or all tokens from the tower if these are fewer.

        The few tokens above the budget are merged by similarity, across all clips.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        kept = as_sequences(tokens)
        # By similarity of the output states: after the tower there are no keys.
        kept = kept.merge(kept.states, max(0, kept.count - budget))
        return merged_tokens(tokens, kept, self.clips(len(tokens.timestamps_s)))
