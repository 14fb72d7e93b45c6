"""Cut a video into segments of frames that stay like their first frame (EarlyTom)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.clips import CutClips
from aot.compression.ops.similarity import decision_dtype, working_dtype

__all__ = ["frame_similarity", "streaming_segments"]


def frame_similarity(values: Tensor) -> Tensor:
    """Return the similarity of all pairs of frames, [F, F], from `values` [F, N, D].

    It is the cosine similarity of the vectors at the same position, averaged over positions.
    """
    unit = functional.normalize(values.to(working_dtype(values)), dim=-1).flatten(1)
    return (unit @ unit.mT / values.shape[1]).to(decision_dtype(values))


def streaming_segments(similarity: Tensor, threshold: float, window: int, ema: float) -> CutClips:
    """Return the segments of a video (EarlyTom, arXiv 2605.30010), without reading values.

    From frame to frame of a segment, a moving average of the similarity to the segment's first
    frame is updated: average = ema * similarity + (1 - ema) * average, which begins with 1. A frame
    begins the next segment if the average is below `threshold`, or if it would be number `window`
    of its segment. So a segment has at most `window` - 1 frames, as in the published code.

    Args:
        similarity: [F, F], from `frame_similarity`.
        threshold: the least average within a segment.
        window: at least 2.
        ema: weight of the newest similarity.
    """
    frames = len(similarity)
    longest = max(1, min(window - 1, frames))
    # 1. The length of the segment that would begin at each frame.
    padded = functional.pad(similarity, (0, longest))
    average, length = torch.ones_like(padded[:, 0]), torch.full((frames,), longest, device=similarity.device)
    for step in range(1, longest):
        average = ema * padded.diagonal(step) + (1 - ema) * average
        length = torch.where((average < threshold) & (length == longest), step, length)
    # 2. The segments that do begin: follow the ends from frame 0; each round doubles the number of
    # segments followed.
    frame = torch.arange(frames + 1, device=similarity.device)
    following = torch.cat([(frame[:-1] + length).clamp_max(frames), frame[-1:]])
    starts = torch.cat([torch.ones_like(frame[:1]), torch.zeros_like(frame[1:])])
    for _ in range(frames.bit_length()):
        starts = starts.index_add(0, following, starts).clamp_max(1)
        following = following[following]
    return CutClips(starts[:-1] > 0)
