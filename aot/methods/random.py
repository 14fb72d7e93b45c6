"""Baseline: tokens drawn by lot."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from aot.methods.subset import keep_subset, pooled_cells
from aot.registry import Card
from aot.strict import check
from aot.types import CompressedTokens, Needs, VisualTokens

__all__ = ["RandomTokens"]


@dataclass(frozen=True)
class RandomTokens:
    """A random subset of the video's tokens, another one for every video.

    The draw is a function of the seed and of the features, bit for bit: the same on the same machine, while another
    device or dtype may draw differently.
    """

    card: ClassVar = Card("after pooling", remark="tokens drawn at random, others for every video")
    needs: ClassVar = Needs()

    seed: int = 0

    def __post_init__(self) -> None:
        check(seed=(0 <= self.seed < 2**31, f"must be in 0 .. 2^31 - 1, got {self.seed}"))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens."""
        frames, per_frame = pooled_cells(tokens)
        lot = torch.Generator().manual_seed(zlib.crc32(tokens.features.float().cpu().numpy().tobytes(), self.seed))
        drawn = torch.randperm(frames * per_frame, generator=lot)[:budget]
        return keep_subset(tokens, drawn.sort().values)
