"""Baseline: keep a random subset of the tokens."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.compression.methods.subset import keep_subset
from aot.compression.ops.grid import pooled_grid
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["RandomTokens"]


@dataclass(frozen=True)
class RandomTokens(CheckedSettings):
    """Keep a random subset of the video's tokens, different for every video.

    The draw depends on the seed, the file name without the folder, the frame times and the grid,
    but not on features. With the same grid, every device, dtype and model draws the same tokens.
    """

    card: ClassVar = Card("after pooling", remark="tokens drawn at random, different ones for every video")
    needs: ClassVar = Needs()

    seed: int = setting(0, "Seed of the draw.", least=0, most=2**31 - 1)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, in raster order."""
        rows, cols = pooled_grid(tokens.grid, tokens.pool)
        identity = f"{tokens.video_name} {tokens.timestamps_s} {rows} x {cols}".encode(errors="surrogateescape")
        # A separate generator: the global generator is never seeded.
        generator = torch.Generator().manual_seed(zlib.crc32(identity, self.seed))
        drawn = torch.randperm(len(tokens.timestamps_s) * rows * cols, generator=generator)[:budget]
        return keep_subset(tokens, drawn.sort().values)
