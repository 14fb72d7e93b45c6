"""The nouns of the program, and the letters used for their sizes everywhere.

F  frames (Qwen-VL: pairs)   g  patches per side of the vision tower's grid
N  patches per frame (g*g)   n  tokens per frame after the model's own pooling
D  width of the language model
M  anchors per frame         U  unselected patches per frame (N - M)
K  tokens kept for the whole video
C  clips                     B  token budget, or batch size inside `aot.core`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

__all__ = [
    "BlockMerging",
    "Clip",
    "CompressedTokens",
    "EncoderMerging",
    "MergedPatches",
    "Needs",
    "Pooling",
    "Provenance",
    "Role",
    "TokenBudget",
    "TransportPlan",
    "VideoFrames",
    "VideoInfo",
    "VisualTokens",
]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file is, read from its packets (one picture is decoded, for the orientation).

    `frames` counts the frames that can be shown: packets an edit list discards are in
    `discarded_frames` instead. `header_frames` is what the container claims (0: it does not say).
    A picture is turned clockwise by `rotation_degrees` and then, if `mirrored`, left and right change sides;
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
    """Sampled frames, in time order.

    pixels: uint8 [F, 3, H, W], RGB, upright, already at the size asked for.
    timestamps_s: F presentation times, from the start of the stream's first shown frame.
    notices: one sentence for each thing the user should know (frames missing, damaged data).
    """

    pixels: Tensor
    timestamps_s: tuple[float, ...]
    source: VideoInfo
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pooling:
    """The model's own spatial pooling as data, because AOT works on both sides of it.

    "bilinear": to ceil(g / stride) per side, corners not aligned (LLaVA-OneVision).
    "average": stride x stride means, an incomplete last row or column dropped (LLaVA-Video).
    "none": no pooling.
    """

    kind: Literal["bilinear", "average", "none"]
    stride: int = 2


@dataclass(frozen=True, slots=True)
class BlockMerging:
    """What one block of the vision tower merges, by bipartite soft matching.

    join: so many consecutive sequences of tokens first become one. before: merges ahead of attention, by the block's
    input; after: merges between attention and MLP, by the keys (their mean over heads). by_similarity: the unmerged
    tokens go on from the most to the least similar, as ToMe has them without a class token, and not by index.
    """

    join: int = 1
    before: int = 0
    after: int = 0
    by_similarity: bool = False


class EncoderMerging(Protocol):
    """Tokens become fewer inside the vision tower. Equal ones merge equally, and so share an encoding."""

    def clips(self, frames: int) -> tuple[Clip, ...]:
        """Which of a video's frames are encoded together."""
        ...

    def plan(self, frames: int, patches: int, tokens_per_frame: int, blocks: int) -> tuple[BlockMerging, ...]:
        """What each of the tower's blocks does to a clip of `frames`, each of N patches and n tokens after pooling."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method needs the encoder to do.

    saliency_layers, key_layers: the attention received in these blocks, and their keys (negative counts from the last).
    frame_embeddings: an embedding of each frame. pooling_attention: what SigLIP's pooling head looks at.
    merging: the tower merges tokens on the way, and then records nothing else.
    """

    saliency_layers: tuple[int, ...] = ()
    key_layers: tuple[int, ...] = ()
    frame_embeddings: bool = False
    pooling_attention: bool = False
    merging: EncoderMerging | None = None

    @classmethod
    def union(cls, needs: Iterable[Needs]) -> Needs:
        """All that any of them needs.

        Raises:
            ValueError: they do not merge alike inside the tower.
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
    """How many tokens to keep, and the `ratio` it was rounded from, which published counts (`paper_exact`) need."""

    ratio: float

    def __new__(cls, count: int, ratio: float) -> TokenBudget:
        budget = super().__new__(cls, count)
        budget.ratio = ratio
        return budget

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenBudget, (int(self), self.ratio)  # for copies, as of facts in a report

    @staticmethod
    def ratio_of(budget: int, total: int) -> float:
        """Return the ratio of a budget; of a plain number, its share of `total` tokens."""
        return budget.ratio if isinstance(budget, TokenBudget) else budget / total


@dataclass(frozen=True, slots=True)
class MergedPatches:
    """What became of the patches in a tower that merges.

    owner: [F, N] int64, the token each patch is part of. anchor: [T] int64, the patch (frame * N + patch) that the
    others of a token were merged into. tower_share: the share of the patches that a block's MLP sees, the mean over
    blocks.
    """

    owner: Tensor
    anchor: Tensor
    tower_share: float


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """What an encoder gives a method.

    features: [F, N, D] after the projector, before pooling, raster order.
    saliency: block index -> [F, N] float32, the attention each patch receives (mean over heads of
        the sum over queries).
    keys: block index -> [F, N, heads, d], the keys of a block.
    frame_embeddings: [F, E] or None, for finding scene changes. pooling_attention: [F, N] or None, how much SigLIP's
        pooling head looks at each patch (mean over heads, sums to 1 per frame); without the head, the attention
        received in the last block, of the same sum. `embedding_source` names the origin of both.
    notices: one sentence for each thing about the encoding that the user should know.
    video_name: the file's, without its folder. duration_s: of the whole video, if known. deepstack: [layers, F, n, D]
        or None, features that the language model adds to its first layers' output (Qwen3-VL).
    finite: bool [] on the features' device, whether all of this is finite, or None if that has been checked: an
        encoder on CUDA does not wait for the answer, and `aot.compression.contract.check_encoded` does.
    merged: where the tower merged, and then features are [T, D], those of all frames, clip by clip; they are not to be
        pooled any more, and grid and pool are what they would have been.
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


@dataclass(frozen=True, slots=True)
class TransportPlan:
    """A Sinkhorn plan and how far it got; not converging is data, not an exception.

    plan: [B, S, A], mass moved from source s to anchor a. row_weights [B, S] and column_weights [B, A]: its marginals.
    iterations: [B]. converged: [B] bool, whether the stopping rule fired.
    """

    plan: Tensor
    row_weights: Tensor
    column_weights: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def row_error(self) -> Tensor:
        """[B], L1 distance of the row sums from their marginal."""
        return (self.plan.sum(-1) - self.row_weights).abs().sum(-1)

    @property
    def marginal_error(self) -> Tensor:
        """[B], L1 distance of the row and the column sums from their marginals."""
        return self.row_error + (self.plan.sum(-2) - self.column_weights).abs().sum(-1)


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames first .. stop-1, treated together; the first is the keyframe."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @classmethod
    def runs(cls, frames: int, length: int) -> tuple[Clip, ...]:
        """Consecutive clips of `length` frames; the last may be shorter (docs/algorithm.md, section 4)."""
        return tuple(cls(first, min(first + length, frames)) for first in range(0, frames, length))

    @classmethod
    def runs_within(cls, segments: Sequence[int], length: int) -> tuple[Clip, ...]:
        """The runs of each segment, one segment after the other; `segments` are their lengths in frames."""
        firsts = accumulate(segments, initial=0)
        return tuple(
            cls(first + clip.first, first + clip.stop)
            for first, frames in zip(firsts, segments, strict=False)
            for clip in cls.runs(frames, length)
        )


class Role(IntEnum):
    """How a kept token came to be."""

    KEPT = 0  # selected in its frame; no transport across frames
    KEYFRAME = 1  # a keyframe's own token
    DISTINCT = 2  # a later frame's token that has changed since the keyframe
    MERGED = 3  # a token after absorbing others; in AOT a keyframe's, and what the later frames repeat


@dataclass(frozen=True, slots=True)
class Provenance:
    """What kept tokens are made of: kept token `token` holds pooled token `place` (of all F * n) with weight `share`.

    token, place: [E] int64; share: [E] float32, in (0, 1]. A token's shares sum to 1 or, where a method left out those
    below a thousandth, to less. global_anchors: bool [F, n] or None, where AOT's anchors are global rather than local.
    whole: float32 [F, n] or None, for tokens made of patches how much mass all patches of a pooled token have, where
    that is not 1 for each.
    """

    token: Tensor
    place: Tensor
    share: Tensor
    global_anchors: Tensor | None = None
    whole: Tensor | None = None


@dataclass(frozen=True, slots=True)
class CompressedTokens:
    """The kept tokens, in the order the language model reads them (never re-sorted silently).

    features: [K, D]. frame, row, col: [K] int32, where each token came from (pooled grid).
    role: [K] uint8, values of `Role`. mass: [K] float32, how many pooled tokens it stands for:
    1, or 1 plus what it absorbed. facts: plain values that explain the result in a
    report (anchors per frame, iterations, ...). duration_s and deepstack [layers, K, D]: of `VisualTokens`, the latter
    at each token's own place. provenance: works out what the tokens are made of, for those who ask while the method's
    tensors are still there; None where each is only itself.
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
    provenance: Callable[[], Provenance] | None = field(default=None, repr=False, compare=False)

    @property
    def place(self) -> Tensor:
        """[K] int64, where each token came from, counted through the whole video in raster order."""
        rows, cols = self.grid
        return (self.frame.long() * rows + self.row.long()) * cols + self.col.long()
