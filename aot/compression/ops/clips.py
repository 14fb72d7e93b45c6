"""Cutting a video where the picture changes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aot.types import Clip

__all__ = ["dynamic_clips", "neighbour_similarity"]


def neighbour_similarity(embeddings: Tensor) -> Tensor:
    """Cosine of each frame's embedding [F, E] with the next one's: [F - 1]."""
    unit = functional.normalize(embeddings.to(torch.float32), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)


def dynamic_clips(embeddings: Tensor, segments: int = 8, threshold: float = 0.8) -> tuple[Clip, ...]:
    """Cut after frame i where its similarity to frame i + 1 is among the `segments` - 1 lowest or below
    `threshold` (docs/algorithm.md, section 5, after FastVID's DySeg). embeddings: [F, E].
    """
    frames = embeddings.shape[0]
    similarity = neighbour_similarity(embeddings)
    cut = similarity < threshold
    cut[similarity.argsort(stable=True)[: segments - 1]] = True
    starts = [0, *(cut.nonzero().flatten() + 1).tolist()]
    return tuple(Clip(first, stop) for first, stop in zip(starts, [*starts[1:], frames], strict=True))
