"""What a tower that merges gives a method, without a tower: its blocks neither attend nor compute."""

from __future__ import annotations

import math

import torch

from aot.core.grid import pooled_grid
from aot.core.token_merging import MergingTokens
from aot.models.merging_tower import MergedVideo
from aot.types import EncoderMerging, Pooling, VisualTokens

BLOCKS = 6
POOL = Pooling("bilinear", 2)


def merged_video(
    merging: EncoderMerging, features: torch.Tensor, grid: tuple[int, int], pool: Pooling = POOL
) -> VisualTokens:
    """Features [F, N, D] merged by `merging`, their own keys."""
    frames, patches, _ = features.shape
    video = MergedVideo()
    for clip in merging.clips(frames):
        plan = merging.plan(len(clip), patches, math.prod(pooled_grid(grid, pool)), BLOCKS)
        tokens = MergingTokens.of(features[clip.first : clip.stop])
        for step in plan:
            tokens = tokens.joined(step.join)
            for merges in (step.before, step.after):
                tokens = tokens.merge(tokens.states, merges, by_similarity=step.by_similarity)
        video.add(tokens, tokens.states, plan, patches)
    times = tuple(float(k) for k in range(frames))
    merged = video.patches()
    return VisualTokens(
        torch.cat(video.features), grid, pool, times, {}, frame_embeddings=torch.cat(video.embeddings), merged=merged
    )
