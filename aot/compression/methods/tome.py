"""ToMe (arXiv 2210.09461): merge similar tokens of a frame in every block of the vision tower."""

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
from aot.compression.ops.uploads import uploaded
from aot.config.schema import Config
from aot.config.setting import setting
from aot.plugins import Card
from aot.types import BlockMerging, Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["ToMe", "ToMeSettings"]


@dataclass(frozen=True)
class ToMeSettings:
    """Hold the setting that says how the merges are spread over the blocks of the vision tower."""

    schedule: Literal["constant", "linear"] = setting(
        "constant",
        "Merge equally many tokens in every block, or from twice as many in the first down to none in the last.",
    )


@dataclass(frozen=True)
class ToMe:
    """Merge similar tokens of each frame by bipartite soft matching in every block of the tower.

    Tokens are matched by similarity of keys, between attention and MLP. In attention, a merged
    token is weighted by its number of patches. In the tower, each frame keeps its share of the
    budget, rounded up. The few tokens above the budget are merged after the tower, by similarity of
    output features, in frames that are evenly spaced over the video.
    """

    card: ClassVar = Card(
        "inside the vision tower",
        "arXiv 2210.09461, ICLR 2023",
        remark="each frame's tokens, similar ones merged in every block, which also makes encoding faster",
    )
    settings_type: ClassVar = ToMeSettings

    ratio: float
    settings: ToMeSettings = ToMeSettings()

    @classmethod
    def from_config(cls, config: Config, settings: ToMeSettings) -> ToMe:
        """Return the method for `config.ratio`."""
        return cls(config.ratio, settings)

    @property
    def needs(self) -> Needs:
        """Return the need for a vision tower that merges as `plan` says."""
        return Needs(merging=self)

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Return one clip per frame, because tokens merge within frames only."""
        return Clip.runs(frames, 1)

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return every block's merges; a frame keeps its share of the budget, rounded up."""
        # The offset is needed because a product such as 0.07 * 100 is above 7 in floating point.
        target = math.ceil(self.ratio * tokens_per_frame - 1e-9)
        return frame_merging(patches, min(max(target, 1), patches), blocks, self.settings.schedule)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, or all tokens from the tower if these are fewer.

        If `budget` is below one token per frame, each frame is first reduced to one token. These
        tokens are then merged across frames.

        Raises:
            BudgetError: If `budget` is 0.
        """
        check_budget(tokens, budget)
        clips = self.clips(len(tokens.timestamps_s))
        by_frame = as_sequences(tokens, len(clips))
        # Merge within frames, down to one token each; make only the other merges across frames.
        merges = max(0, len(tokens.features) - budget)
        across = max(0, len(clips) - budget)
        kept = _merge_in_frames(by_frame, merges - across)
        return merged_tokens(tokens, kept.merge(kept.states, across, by_similarity=True), clips)


def _merge_in_frames(by_frame: MergingTokens, merges: int) -> MergingTokens:
    """Return the tokens after `merges` merges within frames, joined into one sequence.

    Every frame makes the same number of merges. If `merges` is not a multiple of the number of
    frames, as many evenly spaced frames as needed make one more merge.
    """
    frames = len(by_frame.states)
    # First the same number of merges in all frames.
    each, more = divmod(merges, frames)
    by_frame = by_frame.merge(by_frame.states, each, by_similarity=True)
    whole = by_frame.joined(frames)
    if not more:
        return whole
    index = torch.arange(whole.count, device=whole.anchor.device).view(frames, -1)
    # Then one more merge in the chosen frames; all other tokens are their own targets.
    target, chosen = index.clone(), uploaded(evenly(frames, more), index.device)
    target[chosen] = match_pairs(by_frame.states[chosen], 1).target + index[chosen, :1]
    return whole.merge_into(target.view(1, -1), more)
