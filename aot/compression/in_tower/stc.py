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

from aot.compression.ops.kernels import runs_triton
from aot.compression.ops.similarity import working_dtype
from aot.config.schema import TowerConfig
from aot.types import FrameReferences, FrameReuse, Needs, VideoFrames

__all__ = [
    "Block", "ReferenceSchedule", "ReuseGroup", "changed_tokens", "computed_rows", "reuse_needs", "run_block",
]  # fmt: skip

# A thumbnail has up to this number of cells per side; a cell is a mean over a few sampled pixels.
_CELLS, _SAMPLES = 16, 64


def reuse_needs(needs: Needs, config: TowerConfig) -> Needs:
    """Return `needs` with frames that reuse the work on references."""
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
    """One pre-norm block of the tower in parts.

    Tensors of tokens are [..., D]: [F, N, D] for all N tokens of F frames, or [M, D] for M rows of
    the F * N tokens.
    """

    @property
    def is_recorded(self) -> bool:
        """Return whether `record` must be called."""

    def normalize(self, states: Tensor, /) -> Tensor:
        """Return the states after the norm before attention, as a new tensor."""

    def queries(self, normed: Tensor, /) -> Tensor:
        """Return the queries of normalized tokens, all heads together."""

    def keys(self, normed: Tensor, /) -> Tensor:
        """Return the keys of normalized tokens."""

    def values(self, normed: Tensor, /) -> Tensor:
        """Return the values of normalized tokens."""

    def rotate(self, tokens: Tensor, rows: Tensor | None, /) -> Tensor:
        """Return queries or keys with the tower's rotary position embeddings, if it has them.

        The tokens are [F, N, D], or [M, D] with `rows` [M], their rows of all F * N tokens.
        """

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor:
        """Return the attention output before its projection: [f, n, D] for queries [f, n, D].

        `keys` and `values` are [f, N, D].
        """

    def project(self, attended: Tensor, /) -> Tensor:
        """Return the change by attention from its output."""

    def feed_forward(self, states: Tensor, /) -> Tensor:
        """Return the change by norm and MLP."""

    def record(self, queries: Tensor, keys: Tensor, /) -> None:
        """Record the attention of all tokens from rotated queries and keys [F, N, D]."""


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

    def count(self, tokens: int) -> int:
        """Return k, the number of tokens that each other frame computes of its N tokens."""
        others = tokens - self.always
        return self.always + max(1, min(int(others * self.share), others))


def run_block(block: Block, states: Tensor, group: ReuseGroup) -> Tensor:
    """Return the states [F, N, D] of the frames of `group` after one block.

    With the keys K, values V and changes C of the references, the block computes for other frames
    all keys K', and queries, values, attention and MLP of the tokens that `changed_tokens` names.
    These attend to all of K' and to V with their own values in place. Every other token changes by
    C. The method as published borrows the outputs of attention and MLP one after the other, which
    has the same result: where both are borrowed, their sum is C.

    On a fast GPU the number of operations decides the time, so that all computed tokens, those of
    references and the chosen ones of other frames, are rows of one matrix [M, D].
    """
    frames, tokens, width = states.shape
    first, exact = group.references, group.references * tokens
    # 1. All keys; they decide which tokens are computed.
    normed = block.normalize(states)
    keys = block.keys(normed)
    rows = computed_rows(keys, group)
    chosen = normed.flatten(0, 1).index_select(0, rows)
    # 2. Attention, in two calls because other frames have fewer queries.
    query, value, keys = block.rotate(block.queries(chosen), rows), block.values(chosen), block.rotate(keys, None)
    values = _with_computed(_with_borrowed(torch.empty_like(keys), value[:exact], group), rows, value)
    of_references = block.attend(query[:exact].view(first, tokens, -1), keys[:first], values[:first])
    of_others = block.attend(query[exact:].view(frames - first, -1, query.shape[-1]), keys[first:], values[first:])
    attended = block.project(torch.cat([of_references.flatten(0, 1), of_others.flatten(0, 1)]))
    if block.is_recorded:
        block.record(block.rotate(block.queries(normed), None), keys)
    # 3. Residual sums and MLP, in the order of operations of the block itself.
    updated = torch.index_select(states.view(-1, width), 0, rows, out=chosen).add_(attended)
    fed = block.feed_forward(updated)
    updated.add_(fed)
    # 4. The reference's change for all others, in memory that nobody reads any more.
    found = _with_borrowed(normed, attended[:exact].add_(fed[:exact]), group)
    found[first:].add_(states[first:])
    return _with_computed(found, rows, updated)


def computed_rows(keys: Tensor, group: ReuseGroup) -> Tensor:
    """Return the rows that are computed, int64 [M], of all F * N tokens with `keys` [F, N, D].

    These are all tokens of the references, then those of other frames, frame by frame, that
    `changed_tokens` names. The order within a frame has no effect on the states.
    """
    if runs_triton(keys.device):
        from aot.compression.in_tower.stc_kernels import computed_rows_queued

        return computed_rows_queued(
            keys, group.reference_of, group.references, group.always, group.count(keys.shape[1])
        )
    frames, tokens, _ = keys.shape
    exact, every = group.references * tokens, torch.arange(frames * tokens, device=keys.device)
    changed = changed_tokens(keys, group) + every[exact::tokens, None]
    return torch.cat([every[:exact], changed.flatten()])


def changed_tokens(keys: Tensor, group: ReuseGroup) -> Tensor:
    """Return the tokens to compute anew, int64 [F - R, k], from all keys [F, N, D].

    These are the first `group.always` tokens, and of the S others max(1, int(S * share)): those
    with the lowest cosine similarity of their keys to the reference's keys at the same position,
    over all heads together, ascending. Ties go to the lower index.
    """
    dtype, first = working_dtype(keys), group.references
    of_references = keys[:first].index_select(0, group.reference_of)
    products = torch.linalg.vecdot(keys[first:].to(dtype), of_references.to(dtype))
    norms = torch.linalg.vector_norm(keys, dim=-1, dtype=dtype)
    similarity = products / (norms[first:] * norms.index_select(0, group.reference_of)).clamp_min(1e-12)
    if group.always:
        similarity[:, : group.always].fill_(-2)  # class tokens come first, whatever their similarity
    lowest: Tensor = similarity.sort(stable=True).indices[:, : group.count(keys.shape[1])]
    return lowest


def _with_borrowed(values: Tensor, of_references: Tensor, group: ReuseGroup) -> Tensor:
    """Write the references' rows [R * N, D] into all other frames of `values` [F, N, D]."""
    torch.index_select(
        of_references.view(group.references, *values.shape[1:]), 0, group.reference_of, out=values[group.references :]
    )
    return values


def _with_computed(values: Tensor, rows: Tensor, computed: Tensor) -> Tensor:
    """Write `computed` [M, D] into the rows [M] of all tokens of `values` [F, N, D]."""
    values.view(-1, values.shape[-1]).index_copy_(0, rows, computed)
    return values
