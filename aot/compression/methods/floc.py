"""FLoC (arXiv 2511.00141): the tokens that represent the others best, by facility location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch

from aot.compression.methods.subset import kept_tokens, whole_video
from aot.compression.ops.budget import spread
from aot.compression.ops.facility_location import pick_representatives, similarity_table
from aot.compression.ops.grid import pool
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["FLoC"]

_TABLE_BYTES = 1 << 30  # blocks whose tables fit in this are picked from together
_OF_TABLE = 4  # bytes of a number in a table


@dataclass(frozen=True)
class FLoC(CheckedSettings):
    """Keep the tokens of each block of frames that represent the tokens of the block best.

    Tokens are picked one after the other. Each pick is the one that increases most the sum, over
    all tokens of the block, of the cosine similarity to the most similar picked token. A token that
    is similar to many comes first; one that is similar to a picked token adds little.

    The budget is exact: blocks share it in proportion to their tokens, by largest remainder. There
    is no published code; where the paper leaves a choice (negative similarities, a last block that
    is shorter, Qwen-VL's pairs of frames), a token that nothing represents counts as similarity -1,
    the last block is taken as it is, and a pair counts as a frame.

    Memory grows with the square of a block's tokens, and time nearly so: 32 frames of 196 tokens
    take a table of 157 MB, 8 frames 10 MB.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2511.00141, ICLR 2026",
        remark="the tokens that represent all others of their block of frames best (from the paper, not from code)",
    )
    needs: ClassVar = Needs()

    block_frames: int = setting(
        32, "Frames of a block, in which tokens represent each other; fewer take less time and memory.", least=1
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, unchanged and in raster order.

        Raises:
            BudgetError: If `budget` is 0.
        """
        blocks = Clip.runs(len(tokens.timestamps_s), self.block_frames)
        if (whole := whole_video(tokens, budget, blocks)) is not None:
            return whole
        pooled = pool(tokens.features, tokens.grid, tokens.pool)
        per_frame = pooled.shape[1]
        counts = dict(zip(blocks, spread(budget, [len(block) * per_frame for block in blocks]), strict=True))
        kept = []
        for batch in _batches(blocks, per_frame):
            # Blocks with fewer picks use the first picks.
            table = similarity_table(torch.stack([pooled[block.first : block.stop].flatten(0, 1) for block in batch]))
            picks = pick_representatives(table, max(counts[block] for block in batch))
            kept += [block.first * per_frame + own[: counts[block]] for block, own in zip(batch, picks, strict=True)]
        index = torch.cat(kept).sort().values
        return kept_tokens(tokens, pooled.flatten(0, 1)[index], index, clips=blocks)


def _batches(blocks: Sequence[Clip], per_frame: int) -> Iterator[Sequence[Clip]]:
    """Yield blocks of equal length, as many as can be picked from together."""
    for frames, group in groupby(blocks, len):
        equal = tuple(group)
        at_once = max(1, _TABLE_BYTES // (_OF_TABLE * (frames * per_frame) ** 2))
        yield from (equal[first : first + at_once] for first in range(0, len(equal), at_once))
