"""Cut a video into clips where the picture changes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aot.types import Clip

__all__ = ["dynamic_clips", "neighbor_similarity"]


def neighbor_similarity(embeddings: Tensor) -> Tensor:
    """Return the cosine similarity of adjacent frames, [F - 1], from embeddings [F, E]."""
    unit = functional.normalize(embeddings.to(torch.float32), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)


def dynamic_clips(embeddings: Tensor, segments: int = 8, threshold: float = 0.8) -> tuple[Clip, ...]:
    """Return clips that end where adjacent frames differ (docs/algorithm.md, section 5).

    The rule is DySeg of FastVID (arXiv 2503.11187). Ties go to the earlier frame.

    Args:
        embeddings: [F, E], one per frame.
        segments: cut after the `segments` - 1 frames that are least similar to the next frame.
        threshold: also cut after each frame with a cosine similarity to the next frame below this.
    """
    frames = embeddings.shape[0]
    # 1. Cut after a frame if its similarity to the next is below the threshold or among the lowest.
    similarity = neighbor_similarity(embeddings)
    cut = similarity < threshold
    cut[similarity.argsort(stable=True)[: segments - 1]] = True
    # 2. A cut after frame i starts a clip at frame i + 1.
    starts = [0, *(cut.nonzero().flatten() + 1).tolist()]
    return tuple(Clip(first, stop) for first, stop in zip(starts, [*starts[1:], frames], strict=True))
