"""TempMe's merging: in frames first, then across joined frames, inside the vision tower (arXiv 2409.01156)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from aot.compression.in_tower.merged import as_sequences, merged_tokens
from aot.compression.in_tower.merging_schedules import ClipShares, clip_merging, joins_for
from aot.compression.methods.subset import check_budget
from aot.config.schema import Config
from aot.config.strict import check
from aot.plugins import Card
from aot.types import BlockMerging, Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["TempMe", "TempMeSettings"]


@dataclass(frozen=True)
class TempMeSettings:
    """Shares of tokens merged, as published for 12 blocks; all are strengthened alike until the budget is met.

    image_share: of a frame's patches by all blocks ahead of the clip blocks. across_share: of joined frames' tokens,
    ahead of attention. within_share: behind it, in a clip block. later_share: in each block after the clip blocks.
    """

    image_share: float = 16 / 49
    across_share: float = 0.3
    within_share: float = 0.1
    later_share: float = 0.1

    def __post_init__(self) -> None:
        shares = {field.name: getattr(self, field.name) for field in fields(self)}
        check(**{name: (0 < share < 1, f"must be between 0 and 1, got {share}") for name, share in shares.items()})

    @property
    def kept(self) -> ClipShares:
        """What each step keeps."""
        return ClipShares(1 - self.image_share, 1 - self.across_share, 1 - self.within_share, 1 - self.later_share)


@dataclass(frozen=True)
class TempMe:
    """Soft matching inside the tower: in frames by keys in the early blocks; then in three blocks that join 2, 2 and 3
    clips, across them by the block's input ahead of attention and by keys behind it.

    Blocks 8, 9 and 10 of the published 12 become those at the same depth. A clip is the 12 frames so joined; what
    is left of a video ends in the longest clips that join evenly (8, 6, 4, 3, 2 or 1). The training-free part:
    neither the low-rank adapters nor the clips' position embeddings, and no class token.
    """

    card: ClassVar = Card(
        "inside the vision tower",
        "arXiv 2409.01156, ICLR 2025",
        remark="similar tokens merged in frames, then across, so that encoding is faster too; the untrained part",
    )
    settings_type: ClassVar = TempMeSettings

    ratio: float
    settings: TempMeSettings = TempMeSettings()

    @classmethod
    def from_config(cls, config: Config, settings: TempMeSettings) -> TempMe:
        return cls(config.ratio, settings)

    @property
    def needs(self) -> Needs:
        return Needs(merging=self)

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Consecutive clips, each the longest that its frames join evenly to."""
        joined, clips, first = self.settings.kept.joined, [], 0
        while first < frames:
            most = min(math.prod(joined), frames - first)
            length = next(length for length in range(most, 0, -1) if joins_for(length, joined))
            clips.append(Clip(first, first + length))
            first += length
        return tuple(clips)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Merges of every block, to one token above a clip's share, so that no exact budget asks for more."""
        due = math.floor(self.ratio * frames * tokens_per_frame) + 1
        return clip_merging(frames, patches, min(due, frames * patches), blocks, self.settings.kept)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or all that the tower left where they are fewer.

        The few too many are the most similar of all tokens that the clips gave, whatever their clip.

        Raises:
            BudgetError: the budget is 0.
        """
        check_budget(tokens, budget)
        kept = as_sequences(tokens)
        kept = kept.merge(kept.states, max(0, kept.count - budget))
        return merged_tokens(tokens, kept, self.clips(len(tokens.timestamps_s)))
