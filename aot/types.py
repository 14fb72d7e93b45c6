"""Define shared data types, and the letters that docstrings use for tensor sizes.

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
    "FrameMerging",
    "FrameReferences",
    "FrameReuse",
    "MergedFrames",
    "MergedPatches",
    "Mix",
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
    """Describe a video file, as found in its header, its packets and one decoded picture.

    `frames` is the number of shown frames; `discarded_frames` counts packets that an edit list
    discards. `header_frames` is the number of frames in the container's header, or 0 if missing.
    Pictures are rotated clockwise by `rotation_degrees`, then flipped horizontally if `mirrored`.
    `width` and `height` are the displayed size after rotation, with square pixels.
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
        timestamps_s: F presentation times, in seconds after the first frame of the video.
        source: the video that the frames are from.
        notices: sentences for the user about problems (missing frames, damaged data).
        references: the frames whose work in the vision tower others reuse. Needed only if
            `Needs.reuse` is set and the frames are a later chunk of a video; otherwise the encoder
            chooses the references.
    """

    pixels: Tensor
    timestamps_s: tuple[float, ...]
    source: VideoInfo
    notices: tuple[str, ...] = ()
    references: FrameReferences | None = None


@dataclass(frozen=True, slots=True)
class FrameReferences:
    """Hold the reference of every frame in a chunk; a pair of frames (Qwen-VL) counts as one frame.

    Attributes:
        of: F indices of references in the chunk: the frame itself, an earlier frame, or -1 for
            `earlier`.
        earlier: uint8 [1 or 2, 3, H, W], the pixels of the last reference in earlier chunks; None
            if there is none.
    """

    of: tuple[int, ...]
    earlier: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """Describe how the model pools the patches of each frame.

    "bilinear" resizes the grid to ceil(g / stride) per side, with align_corners=False
    (LLaVA-OneVision). "average" takes means of stride x stride patches and drops an incomplete
    last row or column (LLaVA-Video). "none" does not pool.
    """

    kind: Literal["bilinear", "average", "none"]
    stride: int = 2


@dataclass(frozen=True, slots=True)
class BlockMerging:
    """Describe the merging by bipartite soft matching in one block of the vision tower.

    Attributes:
        join: number of consecutive token sequences that are first joined into one.
        before: number of merges before attention, by similarity of the block's input.
        after: number of merges between attention and MLP, by similarity of keys (mean over heads).
        by_similarity: whether remaining tokens are ordered by descending similarity, as in ToMe
            without a class token; otherwise by index.
    """

    join: int = 1
    before: int = 0
    after: int = 0
    by_similarity: bool = False


class EncoderMerging(Protocol):
    """Describe how tokens are merged inside the vision tower.

    Objects that compare equal merge in the same way and can share one encoding.
    """

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Divide `frames` frames into clips; the frames of one clip are encoded together."""
        ...

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """Return the merging in each block of the tower for one clip.

        Args:
            frames: number of frames in the clip.
            patches: N, the number of patches per frame.
            tokens_per_frame: n, the number of tokens per frame after pooling.
            blocks: number of blocks in the tower.
        """
        ...


@dataclass(frozen=True, slots=True)
class FrameReuse:
    """Describe how frames reuse the work of the vision tower on a reference (`--tower stc`).

    Attributes:
        interval: a reference at least every `interval` frames.
        share: share of the tokens that the other frames compute anew in each block.
        cut: largest difference, 0 .. 1, of a frame's thumbnail from that of its reference.
    """

    interval: int
    share: float
    cut: float


@dataclass(frozen=True, slots=True)
class FrameMerging:
    """Describe how frames are merged inside the vision tower (`--tower earlytom`).

    Attributes:
        layers: numbers of the blocks after which frames are merged.
        threshold: least moving average of similarities to the first frame of a segment.
        window: a segment has at most `window` - 1 frames.
        ema: weight of the newest similarity in the moving average.
        paper_exact: whether to lose a frame of each longer segment, as published.
    """

    layers: tuple[int, ...]
    threshold: float
    window: int
    ema: float
    paper_exact: bool


@dataclass(frozen=True, slots=True)
class Needs:
    """List the encoder outputs that a method needs.

    Attributes:
        saliency_layers: indices of blocks (-1 is the last) for which the attention that each patch
            receives is recorded.
        key_layers: indices of blocks whose keys are recorded; -1 is the last.
        frame_embeddings: whether an embedding of each frame is needed.
        pooling_attention: whether the attention weights of SigLIP's pooling head are needed.
        merging: how the tower merges tokens, or None. With merging, nothing else is recorded.
        reuse: how frames reuse the tower's work on other frames, or None. Unlike the rest, this is
            a choice of the user, and so is `frame_merging`.
        frame_merging: how the tower merges whole frames, or None.
        question: whether the method reads the question. Not an encoder output: each run adds its
            own question to the tokens that it shares with others.
    """

    saliency_layers: tuple[int, ...] = ()
    key_layers: tuple[int, ...] = ()
    frame_embeddings: bool = False
    pooling_attention: bool = False
    merging: EncoderMerging | None = None
    reuse: FrameReuse | None = None
    frame_merging: FrameMerging | None = None
    question: bool = False

    def runs_tower_like(self, other: Needs) -> bool:
        """Return whether the tower reduces its work as for `other`, so that one encoding serves."""
        own, others = ((needs.merging, needs.reuse, needs.frame_merging) for needs in (self, other))
        return own == others

    @classmethod
    def union(cls, needs: Iterable[Needs]) -> Needs:
        """Return needs that cover all elements of `needs`.

        Raises:
            ValueError: If the elements merge or reuse in different ways inside the tower.
        """
        every = list(needs)
        first = every[0] if every else cls()
        if not all(each.runs_tower_like(first) for each in every):
            raise ValueError("needs: expected one way of merging inside the tower, got several")
        return cls(
            tuple(sorted({layer for each in every for layer in each.saliency_layers})),
            tuple(sorted({layer for each in every for layer in each.key_layers})),
            any(each.frame_embeddings for each in every),
            any(each.pooling_attention for each in every),
            first.merging,
            first.reuse,
            first.frame_merging,
            any(each.question for each in every),
        )


class TokenBudget(int):
    """The number of tokens to keep, with the `ratio` from which it was computed.

    Methods that reproduce published counts (`paper_exact`) need the exact ratio.
    """

    ratio: float

    def __new__(cls, count: int, ratio: float) -> TokenBudget:
        """Return a budget of `count` tokens that was computed from `ratio`."""
        budget = super().__new__(cls, count)
        budget.ratio = ratio
        return budget

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles would otherwise call `__new__` without the ratio.
        return TokenBudget, (int(self), self.ratio)

    @staticmethod
    def ratio_of(budget: int, total: int) -> float:
        """Return `budget.ratio` if `budget` is a TokenBudget, otherwise `budget / total`."""
        return budget.ratio if isinstance(budget, TokenBudget) else budget / total


@dataclass(frozen=True, slots=True)
class MergedPatches:
    """Record which patches were merged inside the vision tower.

    Attributes:
        owner: int64 [F, N], the index of the token that contains each patch.
        anchor: int64 [T], for each token, the patch (index frame * N + patch) that absorbed the
            other patches of the token.
        tower_share: (tokens that enter the MLP) / (patches), averaged over blocks.
    """

    owner: Tensor
    anchor: Tensor
    tower_share: float


# The frames that one frame is a weighted mean of: (index, weight), whose weights sum to 1.
Mix = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class MergedFrames:
    """Record which frames were merged inside the vision tower.

    Attributes:
        sources: for each frame that is left, the frames that it is a mean of, first the earliest.
        timestamps_s: the times of all F frames before any merge.
        segments: the segments of the frames that are left, as the tower cut them after the last
            merges; None if it did not.
    """

    sources: tuple[Mix, ...]
    timestamps_s: tuple[float, ...]
    segments: Sequence[Clip] | None = None

    @property
    def left(self) -> tuple[int, ...]:
        """Return for each of the F frames the index of the frame that holds it.

        A frame that was lost counts as the one before it.
        """
        of = {frame: number for number, mix in enumerate(self.sources) for frame, _ in mix}
        return tuple(accumulate((of.get(frame, 0) for frame in range(len(self.timestamps_s))), max))


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """Hold the output of the encoder, which is the input of a method.

    Attributes:
        features: [F, N, D] in raster order, after the projector and before pooling. If the tower
            merged tokens: [T, D], the tokens of all frames, clip by clip, which are not pooled.
        grid: (rows, cols) of patches per frame, before any merging.
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
        notices: sentences for the user about the encoding.
        video_name: file name of the video, without the folder.
        duration_s: duration of the whole video, or None if unknown.
        deepstack: [layers, F, n, D] or None, features that the language model adds to the output of
            its first layers (Qwen3-VL).
        merged: the merged patches, or None if the tower did not merge.
        merged_frames: the merged frames, or None if the tower did not merge frames. Then F counts
            the frames that are left, each with the time of the first that is in it.
        finite: bool [] on the device of `features`, whether all values are finite; None if already
            checked. On CUDA, the encoder does not wait for this value;
            `aot.compression.contract.check_encoded` reads it later.
        traced: whether the method must return the `SourceWeights` of its tokens.
        question: [M, D] or None, the language model's input embeddings of the M tokens of the
            question, or of several questions.
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
    merged_frames: MergedFrames | None = None
    finite: Tensor | None = None
    traced: bool = False
    question: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TransportPlan:
    """Hold a transport plan of Sinkhorn's algorithm, which may not have converged.

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
        """Return the L1 distance between the row sums and `row_weights`, [B]."""
        return (self.plan.sum(-1) - self.row_weights).abs().sum(-1)

    @property
    def marginal_error(self) -> Tensor:
        """Return `row_error` plus the L1 distance from the column sums to `column_weights`, [B]."""
        return self.row_error + (self.plan.sum(-2) - self.column_weights).abs().sum(-1)


@dataclass(frozen=True, slots=True)
class Clip:
    """A group of consecutive frames, `first` .. `stop` - 1; frame `first` is the keyframe."""

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
        """Divide each segment into clips with `runs`; `segments` lists the lengths in frames."""
        firsts = accumulate(segments, initial=0)
        return tuple(
            cls(first + clip.first, first + clip.stop)
            for first, frames in zip(firsts, segments, strict=False)
            for clip in cls.runs(frames, length)
        )


class Role(IntEnum):
    """The origin of a kept token."""

    KEPT = 0  # selected within its frame, without transport between frames
    KEYFRAME = 1  # an unchanged token of a keyframe
    DISTINCT = 2  # a token of a later frame that differs from the keyframe
    MERGED = 3  # a token that absorbed others; in AOT, a keyframe token that absorbed later ones


@dataclass(frozen=True, slots=True)
class SourceWeights:
    """Hold how tokens are mixed from pooled tokens: a sparse matrix [count, F * n] of E weights.

    The matrix times the pooled tokens gives the features, up to a factor per token. The weights of
    a token sum to 1, or to less if a method left out weights below 0.001.

    Attributes:
        count: the number of tokens, which is K for the kept tokens.
        token: int64 [E], the row of each entry: the index of a token.
        source: int64 [E], the column of each entry: the index of a pooled token, which is
            frame * n + (its index in the frame).
        weight: float [E], the weight in (0, 1] of the pooled token `source` in the token `token`.
        source_mass: float32 [F * n], the total mass of the patches of each pooled token, if tokens
            are made of patches; None if all masses are 1.
        is_global: bool [count], true for tokens of global anchors and false for tokens of local
            anchors; None for methods other than AOT.
    """

    count: int
    token: Tensor
    source: Tensor
    weight: Tensor
    source_mass: Tensor | None = None
    is_global: Tensor | None = None


class UnreadCheck(Protocol):
    """A check of values whose result was not read from the device yet."""

    def read(self) -> None:
        """Wait for the result; raise an error if the values are wrong."""


@dataclass(frozen=True, slots=True)
class CompressedTokens:
    """Hold the kept tokens in the order in which the language model reads them.

    Attributes:
        features: [K, D].
        frame: int32 [K], the frame index of each token.
        row: int32 [K], the row of each token in the pooled grid.
        col: int32 [K], the column of each token in the pooled grid.
        role: uint8 [K], values of `Role`.
        mass: float32 [K], the number of pooled tokens in each token: 1 plus the mass it absorbed.
        grid: (rows, cols) of the pooled grid.
        timestamps_s: F presentation times.
        clips: the groups of frames that were compressed together. If they depend on the content,
            the first access reads them from the device.
        facts: plain values that explain the result in a report (anchors per frame, iterations,
            ...).
        duration_s: duration of the whole video, or None if unknown.
        deepstack: [layers, K, D] or None, see `VisualTokens`.
        sources: the sources of the tokens; None if not traced, or if every token is an unchanged
            pooled token.
        unread: the check of the values, if its result was not read yet; None if they were checked.
            On CUDA, the pipeline does not wait for it. An answer reads it before the first text.
    """

    features: Tensor
    frame: Tensor
    row: Tensor
    col: Tensor
    role: Tensor
    mass: Tensor
    grid: tuple[int, int]
    timestamps_s: tuple[float, ...]
    clips: Sequence[Clip]
    facts: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)
    duration_s: float | None = None
    deepstack: Tensor | None = None
    sources: SourceWeights | None = None
    unread: UnreadCheck | None = None

    @property
    def cell(self) -> Tensor:
        """Return the cell of each token, (frame * rows + row) * cols + col, int64 [K]."""
        rows, cols = self.grid
        return (self.frame.long() * rows + self.row.long()) * cols + self.col.long()
