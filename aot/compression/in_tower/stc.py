"""STC-Cacher (arXiv 2512.00891): in the vision tower, frames reuse the work done on a reference.

Every token of a reference frame is computed. In a later frame, each block computes anew only the
tokens whose keys differ most from those of the reference; the block changes every other token as it
changed the token at the same position in the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aot.compression.ops.similarity import working_dtype
from aot.config.schema import TowerConfig
from aot.errors import UnsupportedError
from aot.types import FrameReferences, FrameReuse, Needs, VideoFrames

__all__ = ["Block", "ReferenceSchedule", "ReuseGroup", "changed_tokens", "reuse_needs", "run_block"]

# A thumbnail has up to this number of cells per side; a cell is a mean over a few sampled pixels.
_CELLS, _SAMPLES = 16, 64


def reuse_needs(needs: Needs, config: TowerConfig) -> Needs:
    """Return `needs` with frames that reuse the work on references.

    Raises:
        UnsupportedError: If the method merges tokens inside the tower.
    """
    if needs.merging is not None:
        raise UnsupportedError(
            "--tower stc does not work with a method that merges tokens inside the vision tower (tome, tempme, or a "
            "plug-in); use --tower full, or another --method"
        )
    return replace(needs, reuse=FrameReuse(config.stc.interval, config.stc.share, config.stc.cut))


class ReferenceSchedule:
    """Choose the references of one video, whose frames arrive in chunks.

    A frame is a reference if the last reference is `reuse.interval` frames before it, or if the
    picture has changed: the thumbnails of the frame and of the last reference differ by more than
    `reuse.cut` in the mean. The choice is made on the host, where decoded pixels are, so that no
    device is waited for, and it does not depend on the size of the chunks.

    Args:
        reuse: the settings.
        together: number of frames that the tower encodes as one; the last group may be shorter.

    Attributes:
        count: the number of references so far.
    """

    def __init__(self, reuse: FrameReuse, together: int = 1) -> None:
        self.count = 0
        self._reuse, self._together = reuse, together
        self._last: Tensor | None = None
        self._thumbnail: NDArray[np.float32] | None = None
        self._age = 0

    def mark(self, frames: VideoFrames) -> VideoFrames:
        """Return the next chunk with its references."""
        return replace(frames, references=self.add(frames.pixels))

    def add(self, pixels: Tensor) -> FrameReferences:
        """Return the references of the next chunk, uint8 `pixels` [F, 3, H, W]."""
        groups = torch.split(pixels, self._together)
        earlier, last, of = self._last, -1, list[int]()
        for number, group in enumerate(groups):
            thumbnail = _thumbnail(group.cpu().numpy())
            self._age += 1
            if self._is_reference(thumbnail):
                last, self._thumbnail, self._age = number, thumbnail, 0
                self.count += 1
            of.append(last)
        # A copy: a view would keep all frames of the chunk in memory.
        if last >= 0:
            self._last = groups[last].clone()
        return FrameReferences(tuple(of), earlier)

    def _is_reference(self, thumbnail: NDArray[np.float32]) -> bool:
        if self._thumbnail is None or self._age >= self._reuse.interval:
            return True
        return float(np.abs(thumbnail - self._thumbnail).mean()) > self._reuse.cut


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of `pixels` [f, 3, H, W] in each of up to 16 x 16 cells, in 0 .. 1."""
    for axis in (2, 3):
        # 1. Not every pixel is read: this takes a tenth of a millisecond instead of several.
        pixels = pixels.take(range(0, pixels.shape[axis], max(1, pixels.shape[axis] // _SAMPLES)), axis)
    means = pixels.mean(0, dtype=np.float32)
    for axis in (1, 2):
        # 2. Means over cells of nearly equal size.
        size = means.shape[axis]
        edges = np.arange(min(_CELLS, size)) * size // min(_CELLS, size)
        sizes = np.diff(edges, append=size).astype(np.float32)
        means = np.add.reduceat(means, edges, axis) / (sizes[:, None] if axis == 1 else sizes)
    thumbnail: NDArray[np.float32] = means / np.float32(255)
    return thumbnail


class Block(Protocol):
    """One pre-norm block of the tower in parts, for n of a frame's N tokens: tensors [F, n, D]."""

    @property
    def is_recorded(self) -> bool:
        """Return whether `record` must be called."""

    def normalize(self, states: Tensor, /) -> Tensor:
        """Return the states after the norm before attention."""

    def queries(self, normed: Tensor, /) -> Tensor:
        """Return the queries of normalized tokens, all heads together."""

    def keys(self, normed: Tensor, /) -> Tensor:
        """Return the keys of normalized tokens."""

    def values(self, normed: Tensor, /) -> Tensor:
        """Return the values of normalized tokens."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, rows: Tensor | None, /) -> Tensor:
        """Return the change by attention, [F, n, D].

        `keys` and `values` are of all N tokens; `rows` [F, n] are the positions of the queries,
        None for all.
        """

    def feed_forward(self, states: Tensor, /) -> Tensor:
        """Return the change by norm and MLP."""

    def record(self, queries: Tensor, keys: Tensor, /) -> None:
        """Record the attention of all tokens."""


@dataclass(frozen=True, slots=True)
class ReuseGroup:
    """Describe frames that run through a block together: references first, then the others.

    Attributes:
        references: R, the number of references.
        reference_of: int64 [F - R], for each other frame the index of its reference.
        share: share of the tokens that other frames compute anew, rounded down.
        always: number of leading tokens (class tokens) that are always computed anew, in addition.
    """

    references: int
    reference_of: Tensor
    share: float
    always: int = 0


def run_block(block: Block, states: Tensor, group: ReuseGroup) -> Tensor:
    """Return the states [F, N, D] of the frames of `group` after one block.

    With the keys K, values V and changes C of the references, the block computes for other frames
    all keys K', and queries, values, attention and MLP of the tokens that `changed_tokens` names.
    These attend to all of K' and to V with their own values in place. Every other token changes by
    C. The method as published borrows the outputs of attention and MLP one after the other, which
    has the same result: where both are borrowed, their sum is C.
    """
    found = torch.empty_like(states)
    # 1. References: all tokens, in the order of operations of the block itself.
    first, later = states[: group.references], states[group.references :]
    normed = block.normalize(first)
    query, key, value = block.queries(normed), block.keys(normed), block.values(normed)
    attended = block.attend(query, key, value, None)
    first = first + attended
    fed = block.feed_forward(first)
    torch.add(first, fed, out=found[: group.references])
    change = attended.add_(fed)
    # 2. Other frames: which tokens to compute.
    normed = block.normalize(later)
    keys = block.keys(normed)
    rows = changed_tokens(keys, key, group)
    chosen = _take(normed, rows)
    # 3. Attention and MLP of these tokens.
    values = _put(value.index_select(0, group.reference_of), rows, block.values(chosen))
    updated = _take(later, rows) + block.attend(block.queries(chosen), keys, values, rows)
    updated = updated + block.feed_forward(updated)
    # 4. The reference's change for all others, written into place: copies cost more than sums here.
    changed = found[group.references :]
    torch.index_select(change, 0, group.reference_of, out=changed)
    _put(changed.add_(later), rows, updated)
    if block.is_recorded:
        block.record(torch.cat([query, block.queries(normed)]), torch.cat([key, keys]))
    return found


def changed_tokens(keys: Tensor, reference_keys: Tensor, group: ReuseGroup) -> Tensor:
    """Return the tokens to compute anew, int64 [F - R, k], ascending.

    These are the first `group.always` tokens, and of the S others max(1, int(S * share)): those
    with the lowest cosine similarity of their keys [F - R, N, D] to the reference's keys [R, N, D]
    at the same position, over all heads together. Ties go to the lower index.
    """
    dtype = working_dtype(keys)
    products = torch.linalg.vecdot(keys.to(dtype), reference_keys.index_select(0, group.reference_of).to(dtype))
    norms = torch.linalg.vector_norm(reference_keys, dim=-1, dtype=dtype).index_select(0, group.reference_of)
    similarity = products / (torch.linalg.vector_norm(keys, dim=-1, dtype=dtype) * norms).clamp_min(1e-12)
    # Class tokens come first, whatever their similarity.
    similarity[:, : group.always] = -2
    others = keys.shape[1] - group.always
    count = group.always + max(1, min(int(others * group.share), others))
    lowest: Tensor = similarity.sort(stable=True).indices[:, :count].sort().values
    return lowest


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Return rows [F, k, D] of values [F, N, D]; `rows` is int64 [F, k]."""
    return values.flatten(0, 1).index_select(0, _flat(rows, values.shape[1])).view(*rows.shape, -1)


def _put(values: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Write `new` [F, k, D] into the rows [F, k] of `values` [F, N, D], in place."""
    values.flatten(0, 1).index_copy_(0, _flat(rows, values.shape[1]), new.flatten(0, 1))
    return values


def _flat(rows: Tensor, count: int) -> Tensor:
    """Return indices into the flattened rows of all frames."""
    # Whole rows of a flat matrix are copied faster than with one index per frame and row.
    return (rows + torch.arange(len(rows), device=rows.device)[:, None] * count).flatten()
