"""FastVID (arXiv 2503.11187): density-based pruning, in the variant for LLaVA-OneVision.

docs/methods.md lists the decisions. The variant for LLaVA-Video, which counts tokens in another
way, is not implemented.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import LOCAL_WINDOWS, check_budget, keep_all, kept_tokens, without_sinks
from aot.compression.ops.budget import even_shares, spread_rows
from aot.compression.ops.clips import CutClips, dynamic_clips
from aot.compression.ops.density_peaks import density_peak_scores
from aot.compression.ops.grid import pool
from aot.compression.ops.padding import longest, packed, placed, true_indices, true_rows
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import blended, chosen, joined, unchanged
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, SourceWeights, VisualTokens

__all__ = ["FastVid"]


@dataclass(frozen=True)
class FastVid(CheckedSettings):
    """Keep salient tokens of each frame, and context tokens merged over each segment.

    Salient tokens receive the most attention in SigLIP's pooling head. Context tokens are density
    peaks in the anchor frames of a segment: the last frame, and every `anchor_stride_frames`-th
    frame before it. Each remaining token of the segment is merged into the most similar context
    token of each anchor frame. All kept tokens are in raster order.

    The budget is exact. All frames have equal shares; floor(context_share * share) of a frame's
    tokens are context tokens. The context tokens of a segment are spread over its anchor frames. If
    the anchor frames have too few tokens, the excess becomes salient tokens of the other frames.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2503.11187, NeurIPS 2025",
        remark="each frame's most attended tokens, and density peaks that absorb the rest of their segment",
    )
    needs: ClassVar = Needs(frame_embeddings=True, pooling_attention=True)

    segments: int = setting(
        8, "A segment ends after each of the `segments` - 1 least similar pairs of consecutive frames.", least=1
    )
    threshold: float = setting(
        0.9, "A segment also ends after each pair of frames with a cosine similarity below this.", least=-1, most=1
    )
    context_share: float = setting(0.4, "Share of a frame's tokens that is context.", least=0, most=1)
    anchor_stride_frames: int = setting(4, "Distance between the anchor frames of a segment.", least=1)
    own_weight: float = setting(
        0.6,
        "Least weight of the anchor itself in a context token; the rest is the mean of what it absorbs.",
        least=0,
        most=1,
    )
    neighbors: int = setting(4, "Number of nearest tokens that define a density, including the token itself.", least=1)
    paper_exact: bool = setting(False, "Every frame has floor(budget / F) tokens, and all shares are rounded down.")
    local_windows: bool = setting(False, LOCAL_WINDOWS)

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, at most `budget` tokens.

        Raises:
            BudgetError: If `budget` is 0, or below one token per frame with `paper_exact`.
            ValueError: If `tokens` has no frame embeddings or no pooling attention.
        """
        if tokens.frame_embeddings is None or tokens.pooling_attention is None:
            raise ValueError("frame_embeddings, pooling_attention: expected [F, E] and [F, N], got None")
        features = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = features.shape
        check_budget(tokens, budget, frames if self.paper_exact else 1, f" for {frames} frames, with paper_exact")
        # 1. Segments of similar frames, and the token counts of every frame.
        clips = dynamic_clips(tokens.frame_embeddings, self.segments, self.threshold)
        if budget >= frames * per_frame:
            return keep_all(tokens, clips)
        counts = self._counts(budget, per_frame, clips)
        # 2. Salient tokens: the most attended tokens of every frame.
        attention = pool(tokens.pooling_attention[..., None], tokens.grid, tokens.pool)[..., 0]
        if self.local_windows:
            attention = without_sinks(tokens, attention, budget)
        salient = _most_attended(attention, counts.salient)
        # 3. Context tokens: density peaks of the anchor frames absorb all tokens but salient ones.
        values = features.to(working_dtype(features))
        is_anchor = _context_anchors(values, salient, counts.anchors, self.neighbors)
        context = self._merge(values, salient, is_anchor, counts, clips, traced=tokens.traced)
        # 4. Salient and context tokens together, in raster order. A published count is read.
        kept = salient | is_anchor
        index = true_indices(kept, int(kept.sum()) if self.paper_exact else budget)
        position = kept.flatten().cumsum(0)[context.index] - 1
        unmerged = features.reshape(-1, width)[index]
        return kept_tokens(
            tokens,
            placed(unmerged, position, context.features.to(features.dtype), context.valid),
            index,
            mass=placed(torch.ones_like(index), position, context.absorbed, context.valid),
            clips=clips,
            facts=counted_later({"salient_tokens": salient.sum(), "context_tokens": is_anchor.sum()}),
            sources=context.with_salient(salient) if tokens.traced else None,
        )

    def _counts(self, budget: int, per_frame: int, clips: CutClips) -> _Counts:
        """Return the number of salient tokens and the number of context anchors of every frame."""
        frames, device = len(clips.number), clips.number.device
        shares = (budget // frames,) * frames if self.paper_exact else even_shares(budget, frames)
        wished = [math.floor(share * self.context_share) for share in shares]
        left = [share - own for share, own in zip(shares, wished, strict=True)]
        context, salient = uploaded(torch.tensor([wished, left]), device)
        # The anchor frames, from the last frame of the segment backwards.
        frame = torch.arange(frames, device=device)
        is_anchor = (clips.first + clips.length - 1 - frame) % self.anchor_stride_frames == 0
        # Row c of the tables: the frames of segment c.
        member = clips.number == frame[:, None]
        room, wanted = member * (per_frame - salient), (member * context).sum(1)
        of_anchors, of_others = room * is_anchor, room * ~is_anchor
        # No frame has more anchors than if its segment were as long as its anchor frames allow.
        rooms = [per_frame - own for own in left]
        most = min(self.anchor_stride_frames * max(wished) * max(rooms) // max(min(rooms), 1) + 1, per_frame)
        if self.paper_exact:
            each = wanted // (member & is_anchor).sum(1).clamp_min(1)
            anchors = torch.minimum(each[clips.number], per_frame - salient) * is_anchor
            return _Counts(salient, anchors, sum(wished), most)
        # Spread a segment's context tokens over the free tokens of its anchor frames. The excess
        # becomes salient tokens of the other frames.
        held = torch.minimum(wanted, of_anchors.sum(1))
        excess = spread_rows(wanted - held, of_others).sum(0)
        return _Counts(salient + excess, spread_rows(held, of_anchors).sum(0), sum(wished), most)

    def _merge(
        self, values: Tensor, salient: Tensor, is_anchor: Tensor, counts: _Counts, clips: CutClips, *, traced: bool
    ) -> _Context:
        """Return the context tokens of all frames with anchors.

        Every token of the segment that is not salient, even an anchor, is absorbed by one anchor in
        each frame with anchors. So a token can be part of several context tokens.
        """
        parts = [_Context.empty(values)]
        for frames in clips.batches():
            anchors = counts.anchors[frames]
            most = longest(anchors.sum(0, keepdim=True), counts.most_anchors)
            if most:
                index = true_indices(is_anchor[frames], most)
                valid = torch.arange(most, device=index.device) < anchors.sum()
                members = _members(values[frames], index, anchors, counts.most_per_frame, clips.same[frames, frames])
                members = members * ~salient[frames].flatten()
                parts.append(self._absorb(values, frames.start * values.shape[1], index, valid, members, traced=traced))
        return _Context.joined(parts)

    def _absorb(
        self, values: Tensor, first: int, index: Tensor, valid: Tensor, members: Tensor, *, traced: bool
    ) -> _Context:
        """Return the context tokens of K anchors.

        Args:
            values: [F, n, D].
            first: the index of the first token among F * n that `index` and `members` count from.
            index: int64 [K], the anchors.
            valid: bool [K], false for padding.
            members: [K, m], 1 for the tokens that an anchor absorbs, else 0.
            traced: whether to return sources too.
        """
        tokens = values.flatten(0, 1)[first : first + members.shape[1]]
        # The anchor itself is one of its members: count is at least 1, and 1 / (count + 1) is below
        # the default `own_weight`.
        count = members.sum(1, keepdim=True)
        weight = (1 / (count + 1)).clamp_min(self.own_weight)
        # A matrix product, because scattered sums differ from run to run on CUDA devices.
        means = (members @ tokens) / count.clamp_min(1)
        sources: tuple[SourceWeights, ...] = ()
        if traced:
            owner, source = members[valid].nonzero(as_tuple=True)
            own = unchanged(first + index[valid])
            others = SourceWeights(
                own.count, owner.cpu(), first + source.cpu(), 1 / count[valid][owner, 0].cpu().double()
            )
            sources = (blended(own, others, weight[valid][:, 0]),)
        return _Context(
            weight * tokens[index] + (1 - weight) * means,
            first + index,
            count[:, 0].clamp_min(1).long(),
            valid,
            sources,
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """Hold the numbers of salient tokens and of anchors of every frame, and bounds on the host.

    Attributes:
        salient: int64 [F].
        anchors: int64 [F], the number of context anchors.
        most_anchors: the largest possible sum of `anchors`.
        most_per_frame: the largest possible number of anchors of a frame.
    """

    salient: Tensor
    anchors: Tensor
    most_anchors: int
    most_per_frame: int


@dataclass(frozen=True, slots=True)
class _Context:
    """Hold K context tokens, in order of their anchors.

    Attributes:
        features: [K, D].
        index: int64 [K], the indices of the anchors among F * n.
        absorbed: int64 [K], the number of tokens in each context token.
        valid: bool [K], false for padding.
        sources: the sources of the valid tokens, part by part; none if the video is not traced.
    """

    features: Tensor
    index: Tensor
    absorbed: Tensor
    valid: Tensor
    sources: tuple[SourceWeights, ...]

    @classmethod
    def empty(cls, values: Tensor) -> _Context:
        """Return no tokens, of the width of `values`."""
        index = torch.empty(0, dtype=torch.long, device=values.device)
        return cls(values[0, :0], index, index, index.bool(), ())

    @classmethod
    def joined(cls, parts: Sequence[_Context]) -> _Context:
        """Return the tokens of all `parts`."""
        features, index, absorbed, valid = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("features", "index", "absorbed", "valid")
        )
        return cls(features, index, absorbed, valid, tuple(each for part in parts for each in part.sources))

    def with_salient(self, salient: Tensor) -> SourceWeights:
        """Return the sources of the tokens `salient` and of these tokens, in raster order."""
        own = salient.flatten().nonzero()[:, 0]
        return chosen(joined([unchanged(own), *self.sources]), torch.cat([own, self.index[self.valid]]).argsort())


def _most_attended(attention: Tensor, counts: Tensor) -> Tensor:
    """Return a mask, bool [F, n], of the counts[f] most attended tokens of each frame f.

    Ties go to the lower index.
    """
    # Rank each token in its frame.
    rank = attention.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return rank < counts[:, None]


def _context_anchors(values: Tensor, salient: Tensor, counts: Tensor, neighbors: int) -> Tensor:
    """Return which tokens are anchors, bool [F, n]: counts[f] tokens of each frame f.

    The anchors of a frame are the best density peaks among the tokens that are not salient.

    Args:
        values: [F, n, D].
        salient: bool [F, n].
        counts: int64 [F], the number of anchors of each frame.
        neighbors: the number of nearest tokens that define a density.
    """
    rows = true_rows(counts > 0)
    free, valid = packed(~salient[rows], salient.shape[1])
    is_anchor = torch.zeros_like(salient)
    if not free.numel():
        return is_anchor
    scores = density_peak_scores(
        values[rows[:, None], free], min(neighbors, free.shape[1]), valid, most_neighbors=valid.sum(1)
    )
    ranked = free.gather(1, scores.sort(dim=-1, descending=True, stable=True).indices)
    best = torch.arange(free.shape[1], device=free.device) < counts[rows][:, None]
    return is_anchor.index_put_((rows[:, None], ranked), best)


def _members(values: Tensor, index: Tensor, counts: Tensor, most: int, same: Tensor) -> Tensor:
    """Return which tokens are nearest to which anchor, [K, W * n]: 1 or 0.

    In each frame with anchors, every token of the frame's segment has one nearest anchor, that with
    the highest cosine similarity.

    Args:
        values: [W, n, D], the tokens of W frames.
        index: int64 [K], the anchors, ascending; padding follows the sum of `counts` anchors.
        counts: int64 [W], the number of anchors of each frame.
        most: the largest possible number of anchors of a frame.
        same: bool [W, W], whether two frames are in one segment.
    """
    tokens, anchors = values.flatten(0, 1), len(index)
    # The length of a token has no effect on which anchor is nearest.
    similarity = tokens @ functional.normalize(tokens[index], dim=-1).mT
    # 1. Row r of the table: the anchors of a frame.
    rows = true_rows(counts > 0)
    each = torch.arange(longest(counts, most), device=index.device)
    table = (counts.cumsum(0) - counts)[rows][:, None] + each
    is_anchor = each < counts[rows][:, None]
    # 2. The nearest anchor of each token in each of these frames.
    best = similarity[:, table.clamp_max(anchors - 1)].masked_fill(~is_anchor, -torch.inf).argmax(-1)
    nearest = table[torch.arange(len(rows), device=index.device), best]
    # 3. Only for frames with anchors, and tokens of the same segment; others go to an extra column.
    takes = (same[:, None, rows] & is_anchor[:, 0]).expand(-1, values.shape[1], -1).flatten(0, 1)
    members = similarity.new_zeros(len(tokens), anchors + 1)
    return members.scatter_(1, torch.where(takes, nearest, anchors), 1.0)[:, :anchors].mT
