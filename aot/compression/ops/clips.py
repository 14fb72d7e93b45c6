"""Cut a video into clips where the picture changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.ops.padding import batches
from aot.compression.ops.read_later import Download
from aot.compression.ops.uploads import uploaded
from aot.types import Clip

__all__ = ["CutClips", "clip_bounds", "dynamic_clips", "joined_clips", "neighbor_similarity"]


class CutClips(Sequence[Clip]):
    """Clips that depend on the content; the first access waits for a copy to the host.

    Attributes:
        starts: bool [F], true for the first frame of each clip; frame 0 is one.
        number: int64 [F], the index of each frame's clip.
        first: int64 [F], the first frame of each frame's clip.
        length: int64 [F], the number of frames of each frame's clip.
    """

    def __init__(self, starts: Tensor) -> None:
        self.starts = starts
        frame = torch.arange(len(starts), device=starts.device)
        self.number = starts.cumsum(0) - 1
        self.first = torch.where(starts, frame, 0).cummax(0).values
        self.length = self.same.sum(1)
        self._copy = Download(starts)

    def batches(self) -> Iterator[slice]:
        """Yield the frames of each clip on the CPU, elsewhere of all; see `padding.batches`."""
        return batches(self.number)

    def within(self, frames: slice) -> CutClips:
        """Return the clips of `frames`, one of `batches`."""
        return self if frames == slice(0, len(self.starts)) else CutClips(self.starts[frames])

    @cached_property
    def same(self) -> Tensor:
        """Return bool [F, F]: whether two frames are in one clip."""
        return self.number[:, None] == self.number

    @property
    def total(self) -> Tensor:
        """Return the number of clips, int64 []."""
        return self.number[-1] + 1

    @cached_property
    def _clips(self) -> tuple[Clip, ...]:
        firsts = [frame for frame, starts in enumerate(self._copy.read().tolist()) if starts]
        return tuple(Clip(*edges) for edges in zip(firsts, [*firsts[1:], len(self.starts)], strict=True))

    def __len__(self) -> int:
        return len(self._clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Clip, ...]: ...

    def __getitem__(self, index: int | slice) -> Clip | tuple[Clip, ...]:
        return self._clips[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._clips == tuple(other)

    def __hash__(self) -> int:
        return hash(self._clips)

    def __repr__(self) -> str:
        return repr(self._clips)


def joined_clips(parts: Sequence[Sequence[Clip]], firsts: Sequence[int]) -> Sequence[Clip]:
    """Return the clips of consecutive chunks; firsts[i] is the first frame of chunk i."""
    cuts = [part for part in parts if isinstance(part, CutClips)]
    if len(cuts) == len(parts):
        return CutClips(torch.cat([part.starts for part in cuts]))
    return tuple(
        Clip(first + clip.first, first + clip.stop) for part, first in zip(parts, firsts, strict=True) for clip in part
    )


def clip_bounds(clips: Sequence[Clip], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, for each frame, the first frame and the number of frames of its clip: int64 [F]."""
    if isinstance(clips, CutClips):
        return clips.first.to(device), clips.length.to(device)
    bounds = [(clip.first, len(clip)) for clip in clips for _ in range(clip.first, clip.stop)]
    first, length = uploaded(torch.tensor(bounds), device).unbind(1)
    return first, length


def neighbor_similarity(embeddings: Tensor) -> Tensor:
    """Return the cosine similarity of adjacent frames, [F - 1], from embeddings [F, E]."""
    unit = functional.normalize(embeddings.to(torch.float32), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)


def dynamic_clips(embeddings: Tensor, segments: int = 8, threshold: float = 0.8) -> CutClips:
    """Return clips that end where adjacent frames differ (docs/algorithm.md, section 5).

    The rule is DySeg of FastVID (arXiv 2503.11187). Ties go to the earlier frame.

    Args:
        embeddings: [F, E], one per frame.
        segments: cut after the `segments` - 1 frames that are least similar to the next frame.
        threshold: also cut after each frame with a cosine similarity to the next frame below this.
    """
    # 1. Cut after a frame if its similarity to the next is below the threshold or among the lowest.
    similarity = neighbor_similarity(embeddings)
    lowest = similarity.argsort(stable=True)[: segments - 1]
    cut = (similarity < threshold).index_fill_(0, lowest, True)
    # 2. A cut after frame i starts a clip at frame i + 1.
    return CutClips(torch.cat([cut.new_ones(1), cut]))
