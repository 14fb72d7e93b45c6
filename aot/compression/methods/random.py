"""Baseline: tokens drawn by lot."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.compression.methods.subset import keep_subset
from aot.compression.ops.grid import pooled_grid
from aot.config.strict import check
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["RandomTokens"]


@dataclass(frozen=True)
class RandomTokens:
    """A random subset of the video's tokens, another one for every video.

    The draw follows from the seed, the name of the file (without its folder), the times of the frames and the grid. No
    feature is read, so that every device, dtype and model with the same grid draws the same tokens.
    """

    card: ClassVar = Card("after pooling", remark="tokens drawn at random, others for every video")
    needs: ClassVar = Needs()

    seed: int = 0

    def __post_init__(self) -> None:
        check(seed=(0 <= self.seed < 2**31, f"must be in 0 .. 2^31 - 1, got {self.seed}"))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens."""
        rows, cols = pooled_grid(tokens.grid, tokens.pool)
        identity = f"{tokens.video_name} {tokens.timestamps_s} {rows} x {cols}".encode(errors="surrogateescape")
        lot = torch.Generator().manual_seed(zlib.crc32(identity, self.seed))
        drawn = torch.randperm(len(tokens.timestamps_s) * rows * cols, generator=lot)[:budget]
        return keep_subset(tokens, drawn.sort().values)
