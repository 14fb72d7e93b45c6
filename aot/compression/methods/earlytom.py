"""EarlyTom (arXiv 2605.30010) after pooling: attended tokens, in windows where the video is static.

`--tower earlytom` is the first part of the paper, which merges frames inside the vision tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import early_segments, kept_tokens, pooled_saliency, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.local_windows import inside_of, most_attended
from aot.compression.ops.padding import true_indices
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["EarlyTom"]


@dataclass(frozen=True)
class EarlyTom(CheckedSettings):
    """Keep each frame's most attended tokens; in static frames, one from each of equal windows.

    The video is cut into segments of frames that stay like their first frame. The first and the
    last frame of a segment are dynamic, those between them static. A dynamic frame keeps its most
    attended tokens. A static frame is cut into as many runs of cells, in raster order, as it keeps
    tokens, and keeps the most attended token of each run. So a cell that draws attention in every
    frame (a sink) takes one token of a static frame, not more.

    If frames were merged inside the tower (`--tower earlytom`), its segments are used.

    The budget is exact: all frames keep equally many tokens; a remainder goes to dynamic frames, in
    time order, then to static ones. As published, the counts are rounded, up in dynamic frames and
    to the nearest in static ones.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2605.30010, CVPR 2026",
        remark="each frame's most attended tokens, spread over the picture in static frames; see --tower earlytom",
    )

    threshold: float = setting(
        0.6,
        "A segment ends where the moving average of similarities to its first frame is below this.",
        least=-1,
        most=1,
    )
    window: int = setting(8, "A segment has at most `window` - 1 frames.", least=2)
    ema: float = setting(0.9, "Weight of the newest similarity in the moving average.", above=0, most=1)
    layer: int = setting(
        -1, "Block of the vision tower whose attention ranks tokens; negative numbers count from the last."
    )
    paper_exact: bool = setting(False, "Round the count of each frame as published.")

    @property
    def needs(self) -> Needs:
        """Return the need for the attention that tokens receive in vision tower block `layer`."""
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order.

        Raises:
            BudgetError: If `budget` is 0.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame = pooled.shape[:2]
        # 1. Segments, and which frames are static.
        segments = early_segments(tokens, pooled, self.threshold, self.window, self.ema)
        static = inside_of(segments, pooled.device)
        # 2. How many tokens each frame keeps.
        if self.paper_exact:
            sampled = len(tokens.merged_frames.timestamps_s) if tokens.merged_frames else frames
            ratio = TokenBudget.ratio_of(budget, sampled * per_frame) / (frames / sampled)
            counts = _published_counts(ratio, per_frame, static)
            budget = int(counts.sum())  # published counts depend on the content, and are read
        else:
            counts = _equal_counts(budget, static)
        # 3. The tokens.
        kept = most_attended(pooled_saliency(tokens, self.layer), counts, static)
        index = true_indices(kept, budget)
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=segments)


def _published_counts(ratio: float, per_frame: int, static: Tensor) -> Tensor:
    """Return the published number of tokens of each frame, int64 [F]."""
    wanted = per_frame * min(ratio, 1.0)
    return torch.where(static, max(1, round(wanted)), math.ceil(wanted))


def _equal_counts(budget: int, static: Tensor) -> Tensor:
    """Divide `budget` equally; the remainder goes to dynamic frames first: int64 [F]."""
    share, rest = divmod(budget, len(static))
    rank = static.to(torch.uint8).argsort(stable=True).argsort()
    return share + (rank < rest).long()
