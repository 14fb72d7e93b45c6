"""Define the data types of the program and the letters for their sizes.

F  frames (Qwen-VL: pairs of frames)   g  patches per side of the vision tower's grid
N  patches per frame (g * g)           n  tokens per frame after the model's own pooling
M  anchors per frame                   U  unselected patches per frame (N - M)
K  tokens kept for the whole video     D  width of the language model
C  clips                               B  token budget, or batch size in `aot.compression`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

__all__ = [
    "BlockMerging",
    "Clip",
    "CompressedTokens",
    "EncoderMerging",
    "MergedPatches",
    "Needs",
    "Pooling",
    "Role",
    "SourceWeights",
    "TokenBudget",
    "TransportPlan",
    "VideoFrames",
    "VideoInfo",
    "VisualTokens",
]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Describe a video file, as read from its packets and one picture (for the orientation).

    `frames` counts the frames that are shown; packets that an edit list discards count as
    `discarded_frames`. `header_frames` is the number in the container's header, 0 if it has none. A
    picture is rotated clockwise by `rotation_degrees` and then flipped horizontally if `mirrored`;
    `width` and `height` are those of the result, with square pixels.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    rotation_degrees: int
    stream_index: int
    video_streams: int
    frames: int
    header_frames: int
    discarded_frames: int
    keyframes: int
    duration_s: float
    average_fps: float
    variable_frame_rate: bool
    has_audio: bool
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Hold sampled frames in time order.

    Attributes:
        pixels: uint8 [F, 3, H, W], RGB, upright, at the requested size.
        timestamps_s: F presentation times; the first shown frame of the stream is at 0.
        source: the video they are from.
        notices: one sentence about each problem the user should know (missing frames, damaged
            data).
    """

    pixels: Tensor
    timestamps_s: tuple[float, ...]
    source: VideoInfo
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pooling:
    """Describe the model's own spatial pooling, because AOT works both before and after it.

    "bilinear" resizes to ceil(g / stride) per side, corners not aligned (LLaVA-OneVision).
    "average" takes means of stride x stride patches and drops an incomplete last row or column
    (LLaVA-Video). "none" does not pool.
    """

    kind: Literal["bilinear", "average", "none"]
    stride: int = 2


@dataclass(frozen=True, slots=True)
class BlockMerging:
    """Describe what one block of the vision tower merges by bipartite soft matching.

    Attributes:
        join: how many consecutive token sequences are first joined into one.
        before: merges before attention, by similarity of the block's input.
        after: merges between attention and MLP, by similarity of the keys (mean over heads).
        by_similarity: order the remaining tokens by descending similarity, as ToMe does without a
            class token; otherwise by index.
    """

    join: int = 1
    before: int = 0
    after: int = 0
    by_similarity: bool = False


class EncoderMerging(Protocol):
    """Describe how tokens are merged inside the vision tower.

    Two objects that compare equal merge in the same way, so one encoding serves both.
    """

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Return the clips of a video whose frames are encoded together."""
        ...

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return what each of the tower's blocks merges in a clip.

        Args:
            frames: the frames of the clip.
            patches: N, per frame.
            tokens_per_frame: n, after pooling.
            blocks: the number of the tower's blocks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """List what a method needs from the encoder.

    Attributes:
        saliency_layers: blocks whose attention received is recorded; negative counts from the last.
        key_layers: blocks whose keys are recorded; negative counts from the last.
        frame_embeddings: whether an embedding of each frame is needed.
        pooling_attention: whether the attention weights of SigLIP's pooling head are needed.
        merging: how the tower merges tokens, if it does; then nothing else is recorded.
    """

    saliency_layers: tuple[int, ...] = ()
    key_layers: tuple[int, ...] = ()
    frame_embeddings: bool = False
    pooling_attention: bool = False
    merging: EncoderMerging | None = None

    @classmethod
    def union(cls, needs: Iterable[Needs]) -> Needs:
        """Return needs that cover all of the given ones.

        Raises:
            ValueError: If they merge in different ways inside the tower.
        """
        every = list(needs)
        merging = every[0].merging if every else None
        if any(each.merging != merging for each in every):
            raise ValueError("needs: expected one way of merging inside the tower, got several")
        return cls(
            tuple(sorted({layer for each in every for layer in each.saliency_layers})),
            tuple(sorted({layer for each in every for layer in each.key_layers})),
            any(each.frame_embeddings for each in every),
            any(each.pooling_attention for each in every),
            merging,
        )


class TokenBudget(int):
    """A number of tokens to keep, with the `ratio` from which it was rounded.

    Methods that reproduce published counts (`paper_exact`) need the exact ratio.
    """

    ratio: float

    def __new__(cls, count: int, ratio: float) -> TokenBudget:
        """Return a budget of `count` tokens, rounded from `ratio`."""
        budget = super().__new__(cls, count)
        budget.ratio = ratio
        return budget

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles would otherwise call `__new__` without the ratio.
        return TokenBudget, (int(self), self.ratio)

    @staticmethod
    def ratio_of(budget: int, total: int) -> float:
        """Return the ratio of a budget, or a plain number's share of `total` tokens."""
        return budget.ratio if isinstance(budget, TokenBudget) else budget / total


@dataclass(frozen=True, slots=True)
class MergedPatches:
    """Record which patches were merged inside the vision tower.

    Attributes:
        owner: int64 [F, N], the token that contains each patch.
        anchor: int64 [T], for each token the patch (frame * N + patch) the others were merged into.
        tower_share: tokens entering an MLP as a share of the patches, averaged over blocks.
    """

    owner: Tensor
    anchor: Tensor
    tower_share: float


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """Hold the encoder's output, the input of a method.

    Attributes:
        features: [F, N, D] in raster order, after the projector and before pooling. If the tower
            merged: [T, D] for all frames, clip by clip, and they are not pooled.
        grid: rows and columns of patches, before any merging.
        pool: the model's pooling, which is not applied to merged tokens.
        timestamps_s: F presentation times.
        saliency: block index -> float32 [F, N], the attention received by each patch (sum over
            queries, mean over heads).
        keys: block index -> [F, N, heads, d], the keys of the block.
        frame_embeddings: [F, E] or None, for detecting scene changes.
        pooling_attention: [F, N] or None, the attention of SigLIP's pooling head to each patch
            (mean over heads, sums to 1 per frame). Without the head: the attention received in the
            last block, scaled to the same sum.
        embedding_source: the origin of frame_embeddings and pooling_attention.
        notices: one sentence about each property of the encoding that the user should know.
        video_name: the file name without its folder.
        duration_s: of the whole video, if known.
        deepstack: [layers, F, n, D] or None, features that the language model adds to the output of
            its first layers (Qwen3-VL).
        merged: which patches were merged, if the tower merged.
        finite: bool [] on the features' device, whether all of this is finite; None if that was
            checked. On CUDA an encoder does not wait for the value, which
            `aot.compression.contract.check_encoded` reads.
        traced: whether the method is to return the `SourceWeights` of its tokens.
    """

    features: Tensor
    grid: tuple[int, int]
    pool: Pooling
    timestamps_s: tuple[float, ...]
    saliency: Mapping[int, Tensor]
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    frame_embeddings: Tensor | None = None
    pooling_attention: Tensor | None = None
    embedding_source: str | None = None
    notices: tuple[str, ...] = ()
    video_name: str = ""
    duration_s: float | None = None
    deepstack: Tensor | None = None
    merged: MergedPatches | None = None
    finite: Tensor | None = None
    traced: bool = False


@dataclass(frozen=True, slots=True)
class TransportPlan:
    """Hold a transport plan of Sinkhorn's algorithm; non-convergence is data, not an exception.

    Attributes:
        plan: [B, S, A], the mass moved from source s to anchor a.
        row_weights: [B, S], the prescribed row sums.
        column_weights: [B, A], the prescribed column sums.
        iterations: [B], the number of iterations.
        converged: bool [B], whether the stopping rule was met.
    """

    plan: Tensor
    row_weights: Tensor
    column_weights: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def row_error(self) -> Tensor:
        """Return the L1 distance of the row sums from the prescribed ones, [B]."""
        return (self.plan.sum(-1) - self.row_weights).abs().sum(-1)

    @property
    def marginal_error(self) -> Tensor:
        """Return the L1 distance of row and column sums from the prescribed ones, [B]."""
        return self.row_error + (self.plan.sum(-2) - self.column_weights).abs().sum(-1)


@dataclass(frozen=True, slots=True)
class Clip:
    """A group of frames, first .. stop - 1; the first one is the keyframe."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @classmethod
    def runs(cls, frames: int, length: int) -> tuple[Clip, ...]:
        """Return consecutive clips of `length` frames (docs/algorithm.md, section 4).

        The last clip may be shorter.
        """
        return tuple(cls(first, min(first + length, frames)) for first in range(0, frames, length))

    @classmethod
    def runs_within(cls, segments: Sequence[int], length: int) -> tuple[Clip, ...]:
        """Return the `runs` of each segment in order; `segments` lists the lengths in frames."""
        firsts = accumulate(segments, initial=0)
        return tuple(
            cls(first + clip.first, first + clip.stop)
            for first, frames in zip(firsts, segments, strict=False)
            for clip in cls.runs(frames, length)
        )


class Role(IntEnum):
    """The origin of a kept token."""

    KEPT = 0  # selected within its frame, without transport between frames
    KEYFRAME = 1  # a keyframe's token, unchanged
    DISTINCT = 2  # a later frame's token that differs from the keyframe
    MERGED = 3  # a token that has absorbed others; in AOT a keyframe's, with similar later tokens


@dataclass(frozen=True, slots=True)
class SourceWeights:
    """Hold what tokens are made of: E entries of a sparse matrix, tokens x pooled tokens.

    Up to a factor per token, this matrix times the pooled tokens gives the features. The weights of
    a token sum to 1, or to less if a method left out weights below 0.001.

    Attributes:
        count: the number of tokens, K if these are the kept ones.
        token: int64 [E], the index of a token.
        source: int64 [E], the index of a pooled token that is part of it, among all F * n.
        weight: float [E], its weight, in (0, 1].
        source_mass: float32 [F * n] or None, the total mass of each pooled token's patches, where
            tokens are made of patches; None if all are 1.
        is_global: bool [count] or None, which tokens come from a global anchor of AOT and not from
            a local one.
    """

    count: int
    token: Tensor
    source: Tensor
    weight: Tensor
    source_mass: Tensor | None = None
    is_global: Tensor | None = None


@dataclass(frozen=True, slots=True)
class CompressedTokens:
    """Hold the kept tokens in the order in which the language model reads them.

    Attributes:
        features: [K, D].
        frame: int32 [K], the frame each token comes from.
        row: int32 [K], its row in the pooled grid.
        col: int32 [K], its column in the pooled grid.
        role: uint8 [K], values of `Role`.
        mass: float32 [K], how many pooled tokens it represents: 1, or 1 plus what it absorbed.
        grid: rows and columns of the pooled grid.
        timestamps_s: F presentation times.
        clips: the clips that were compressed together.
        facts: plain values that explain the result in a report (anchors per frame, iterations,
            ...).
        duration_s: of the whole video, if known.
        deepstack: [layers, K, D] or None, see `VisualTokens`.
        sources: what the tokens are made of, for traced visual tokens; None if not traced, or if
            every token is an unchanged pooled token.
    """

    features: Tensor
    frame: Tensor
    row: Tensor
    col: Tensor
    role: Tensor
    mass: Tensor
    grid: tuple[int, int]
    timestamps_s: tuple[float, ...]
    clips: tuple[Clip, ...]
    facts: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)
    duration_s: float | None = None
    deepstack: Tensor | None = None
    sources: SourceWeights | None = None

    @property
    def cell(self) -> Tensor:
        """Return each token's index among all F * n pooled tokens, raster order, int64 [K]."""
        rows, cols = self.grid
        return (self.frame.long() * rows + self.row.long()) * cols + self.col.long()
