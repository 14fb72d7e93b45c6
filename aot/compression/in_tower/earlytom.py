"""EarlyTom (arXiv 2605.30010): merge frames inside the vision tower, so that it has less to do.

After chosen blocks the video is cut into segments of frames that stay like their first frame. In
each segment, pairs of consecutive frames between the first and the last become one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aot.compression.ops.clips import CutClips, clip_bounds
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.streaming_segments import frame_similarity, streaming_segments
from aot.compression.ops.uploads import uploaded
from aot.config.schema import TowerConfig
from aot.types import Clip, CompressedTokens, FrameMerging, MergedFrames, Mix, Needs, Role, SourceWeights

__all__ = ["FrameMerger", "frame_merging_needs", "merges", "mixed", "restored"]


def frame_merging_needs(needs: Needs, config: TowerConfig) -> Needs:
    """Return `needs` with frames that are merged inside the tower."""
    given = config.earlytom
    layers = tuple(int(layer) for layer in str(given.layers).split(","))
    return replace(
        needs, frame_merging=FrameMerging(layers, given.threshold, given.window, given.ema, given.paper_exact)
    )


class FrameMerger:
    """Merge the frames of one chunk after chosen blocks, and remember how.

    Args:
        merging: the settings.
        blocks: the numbers of the blocks, ascending.
        frames: F, the number of frames of the chunk.
        leading: the number of class tokens at the start of each frame, which are not compared.

    Attributes:
        count: the number of frames that are left.
    """

    def __init__(self, merging: FrameMerging, blocks: Sequence[int], frames: int, leading: int = 0) -> None:
        self.count = frames
        self._merging, self._blocks, self._leading = merging, tuple(blocks), leading
        self._steps = list[tuple[int, Sequence[Mix]]]()
        self._segments: CutClips | None = None

    def after(self, block: int, states: Tensor) -> Tensor:
        """Return the frames [T', N, D] for the next block, given the output [T, N, D] of `block`.

        After one of the chosen blocks, this waits for the device: how many frames are left decides
        the shape of all that follows.
        """
        if block not in self._blocks:
            return states
        similarity = self._similarity(states).cpu()
        step = tuple(merges(similarity.tolist(), self._cut(similarity), paper_exact=self._merging.paper_exact))
        self._steps.append((block, step))
        states = mixed(states, step)
        self.count = len(states)
        if block == self._blocks[-1]:
            self._segments = self._cut(self._similarity(states))
        return states

    def _similarity(self, states: Tensor) -> Tensor:
        return frame_similarity(states[:, self._leading :])

    def _cut(self, similarity: Tensor) -> CutClips:
        return streaming_segments(similarity, self._merging.threshold, self._merging.window, self._merging.ema)

    def mixed(self, values: Tensor, block: int) -> Tensor:
        """Return `values` [T, ...], one per frame that `block` read, for the frames left."""
        for number, step in self._steps:
            if number >= block:
                values = mixed(values, step)
        return values

    def found(self, timestamps_s: tuple[float, ...]) -> MergedFrames:
        """Return the merges of the chunk, whose frames have the times `timestamps_s`."""
        sources: Sequence[Mix] = [((frame, 1.0),) for frame in range(len(timestamps_s))]
        for _, step in self._steps:
            sources = [_composed(mix, sources) for mix in step]
        return MergedFrames(tuple(sources), timestamps_s, self._segments)


def merges(similarity: Sequence[Sequence[float]], segments: Sequence[Clip], *, paper_exact: bool) -> Iterator[Mix]:
    """Yield the frames that are left as mixes of the T frames so far.

    The first and the last frame of a segment stay. From the first of the others on, a frame is
    merged with the next if their similarity is above that of the segment's first and last frame,
    and above the similarity of the next two; similarities are those before any merge. The weight of
    the frame is its similarity's share of both; a last pair has equal weights.

    As published (`paper_exact`), the frame before the last one is always lost: a last pair has the
    weights 1 and 0, and if the frame is in no pair it is left out.

    Args:
        similarity: [T, T], from `frame_similarity`.
        segments: the segments of the T frames.
        paper_exact: whether to lose frames as published.
    """
    for segment in segments:
        first, last = segment.first, segment.stop - 1
        yield ((first, 1.0),)
        yield from _merged_between(similarity, first, last, paper_exact=paper_exact and last - first > 2)
        if last > first:
            yield ((last, 1.0),)


def _merged_between(
    similarity: Sequence[Sequence[float]], first: int, last: int, *, paper_exact: bool
) -> Iterator[Mix]:
    """Yield what is left of the frames between `first` and `last`."""
    frame = first + 1
    while frame < last - 1:
        own = similarity[frame][frame + 1]
        is_last_pair = frame == last - 2
        following = -1.0 if is_last_pair else similarity[frame + 1][frame + 2]
        if own > similarity[first][last] and (is_last_pair or own > following):
            # A similarity of 0 or less is no share.
            weight = own / (own + following) if following > 0 else 1.0
            weight = (1.0 if paper_exact else 0.5) if is_last_pair else weight
            yield ((frame, weight), (frame + 1, 1 - weight)) if weight < 1 else ((frame, 1.0),)
            frame += 2
        else:
            yield ((frame, 1.0),)
            frame += 1
    if frame == last - 1 and not paper_exact:
        yield ((frame, 1.0),)


def _composed(mix: Mix, sources: Sequence[Mix]) -> Mix:
    """Return the mix of frames, given the sources of each."""
    return tuple((source, weight * own) for frame, weight in mix for source, own in sources[frame])


def mixed(values: Tensor, mixes: Sequence[Mix]) -> Tensor:
    """Return the frames that `mixes` describes, [T', ...], from `values` [T, ...]."""
    device = values.device
    firsts = uploaded(torch.tensor([mix[0][0] for mix in mixes], dtype=torch.int64), device)
    found = values.index_select(0, firsts)
    pairs = [(number, mix[1][0], *(weight for _, weight in mix)) for number, mix in enumerate(mixes) if len(mix) > 1]
    if pairs:
        dtype = working_dtype(values)
        rows, others = uploaded(torch.tensor([pair[:2] for pair in pairs]), device).unbind(1)
        weights = uploaded(torch.tensor([pair[2:] for pair in pairs], dtype=dtype), device)
        weight, rest = weights.view(len(pairs), 2, *[1] * (values.ndim - 1)).unbind(1)
        pair_means = weight * found.index_select(0, rows) + rest * values.index_select(0, others)
        found.index_copy_(0, rows, pair_means.to(values.dtype))
    return found


def restored(kept: CompressedTokens, merged: MergedFrames) -> CompressedTokens:
    """Return `kept`, tokens of the frames that are left, as tokens of all F frames.

    A token of a merged frame belongs to the first of the frames that are in it, and has their
    number as its mass; its sources are the tokens of all these frames.
    """
    device = kept.features.device
    first, size = uploaded(torch.tensor([(mix[0][0], len(mix)) for mix in merged.sources]), device).unbind(1)
    frame, frames = kept.frame.long(), len(merged.timestamps_s)
    mass = kept.mass * size[frame]
    return replace(
        kept,
        frame=first[frame].to(kept.frame.dtype),
        mass=mass,
        role=torch.where(size[frame] > 1, int(Role.MERGED), kept.role),
        timestamps_s=merged.timestamps_s,
        clips=_restored_clips(kept.clips, first, frames),
        sources=None if kept.sources is None else _restored_sources(kept, kept.sources, merged),
    )


def _restored_clips(clips: Sequence[Clip], first: Tensor, frames: int) -> CutClips:
    """Return the clips of all frames; each begins with the first frame of its first mix."""
    begins, _ = clip_bounds(clips, first.device)
    is_start = begins == torch.arange(len(begins), device=first.device)
    return CutClips(torch.zeros(frames, dtype=torch.bool, device=first.device).index_copy(0, first, is_start))


def _restored_sources(kept: CompressedTokens, sources: SourceWeights, merged: MergedFrames) -> SourceWeights:
    """Return the sources of tokens among the tokens of all F frames; runs on the CPU."""
    per_frame = kept.grid[0] * kept.grid[1]
    frame, cell = sources.source // per_frame, sources.source % per_frame
    parts = []
    for number, mix in enumerate(merged.sources):
        own = frame == number
        parts += [(sources.token[own], cell[own] + source * per_frame, sources.weight[own] * w) for source, w in mix]
    token, source, weight = (torch.cat(each) for each in zip(*parts, strict=True))
    mass = None if sources.source_mass is None else sources.source_mass.view(-1, per_frame)[list(merged.left)].flatten()
    return replace(sources, token=token, source=source, weight=weight, source_mass=mass)
