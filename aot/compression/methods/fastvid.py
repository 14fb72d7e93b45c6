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

from aot.compression.methods.subset import check_budget, keep_subset, kept_tokens
from aot.compression.ops.budget import even_shares, spread
from aot.compression.ops.clips import dynamic_clips
from aot.compression.ops.density_peaks import density_peak_scores
from aot.compression.ops.grid import pool
from aot.compression.ops.products import take_rows
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import blended, chosen, joined, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, SourceWeights, VisualTokens

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
            return keep_subset(tokens, torch.arange(frames * per_frame), clips)
        salient_counts, anchor_counts = self._counts(budget, per_frame, frames, clips)
        # 2. Salient tokens: the most attended tokens of every frame.
        attention = pool(tokens.pooling_attention[..., None], tokens.grid, tokens.pool)[..., 0]
        salient = _most_attended(attention, salient_counts)
        # 3. Context tokens: density peaks of the anchor frames absorb all tokens but salient ones.
        values = features.to(working_dtype(features))
        anchors = _context_anchors(values, salient, anchor_counts, self.neighbors)
        context, absorbed, made_of = self._merge(values, salient, anchors, clips, traced=tokens.traced)
        # 4. Salient and context tokens together, in raster order.
        anchor_indices = [frame * per_frame + cells for frame, cells in anchors.items()]
        kept = salient.flatten().nonzero()[:, 0]
        index, order = torch.cat([kept, *anchor_indices]).sort(stable=True)
        return kept_tokens(
            tokens,
            torch.cat([features.reshape(-1, width)[kept], *(each.to(features.dtype) for each in context)])[order],
            index,
            mass=torch.cat([torch.ones_like(kept), *absorbed])[order],
            clips=clips,
            facts={"salient_tokens": len(kept), "context_tokens": len(index) - len(kept)},
            sources=chosen(joined([unchanged(kept), *made_of]), order) if tokens.traced else None,
        )

    def _counts(
        self, budget: int, per_frame: int, frames: int, clips: Sequence[Clip]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the number of salient tokens and the number of context anchors of every frame."""
        shares = (budget // frames,) * frames if self.paper_exact else even_shares(budget, frames)
        context = [math.floor(share * self.context_share) for share in shares]
        salient = [share - own for share, own in zip(shares, context, strict=True)]
        anchors = [0] * frames
        for clip in clips:
            # The anchor frames, from the last frame of the segment backwards.
            anchor_frames = range(clip.stop - 1, clip.first - 1, -self.anchor_stride_frames)[::-1]
            other_frames = [frame for frame in range(clip.first, clip.stop) if frame not in anchor_frames]
            room = [per_frame - salient[frame] for frame in anchor_frames]
            # Spread the segment's context tokens over the free tokens of its anchor frames.
            wanted = sum(context[clip.first : clip.stop])
            held = min(wanted, sum(room))
            own = [min(wanted // len(room), room[0])] * len(room) if self.paper_exact else spread(held, room)
            for frame, count in zip(anchor_frames, own, strict=True):
                anchors[frame] = count
            # The excess becomes salient tokens of the other frames.
            excess = 0 if self.paper_exact else wanted - held
            for frame, count in zip(
                other_frames, spread(excess, [per_frame - salient[frame] for frame in other_frames]), strict=True
            ):
                salient[frame] += count
        return tuple(salient), tuple(anchors)

    def _merge(
        self, values: Tensor, salient: Tensor, anchors: dict[int, Tensor], clips: Sequence[Clip], *, traced: bool
    ) -> tuple[list[Tensor], list[Tensor], list[SourceWeights]]:
        """Return the context tokens of every frame with anchors, their masses and their sources.

        For a frame with k anchors, these are [k, D], [k] and, if `traced`, `SourceWeights`. Every
        token of the segment that is not salient, even an anchor, is absorbed by one anchor in each
        frame with anchors. So a token can be part of several context tokens.
        """
        context, absorbed, made_of = [], [], []
        for clip in clips:
            anchor_frames = [frame for frame in anchors if clip.first <= frame < clip.stop]
            # Select all tokens of the segment that are not salient.
            members = values[clip.first : clip.stop][~salient[clip.first : clip.stop]]
            directions = functional.normalize(members, dim=-1)
            for frame in anchor_frames:
                own = values[frame, anchors[frame]]
                # Each member goes to the anchor with the highest cosine similarity.
                nearest = (directions @ functional.normalize(own, dim=-1).mT).argmax(-1)
                # A matrix product, because scattered sums differ from run to run on CUDA devices.
                is_member = (nearest[:, None] == torch.arange(len(own), device=own.device)).to(own.dtype)
                count = is_member.sum(0)[:, None]
                # The anchor itself is one of its members: count is at least 1, and 1 / (count + 1)
                # is below the default `own_weight`.
                weight = (1 / (count + 1)).clamp_min(self.own_weight)
                context.append(weight * own + (1 - weight) * (is_member.mT @ members) / count.clamp_min(1))
                absorbed.append(count[:, 0].clamp_min(1))
                if traced:
                    made_of.append(_anchor_sources(salient, clip, nearest, frame, anchors[frame], weight[:, 0]))
        return context, absorbed, made_of


def _most_attended(attention: Tensor, counts: Sequence[int]) -> Tensor:
    """Return a mask, bool [F, n], of the counts[f] most attended tokens of each frame f.

    Ties go to the lower index.
    """
    # Rank each token in its frame.
    rank = attention.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return rank < torch.tensor(counts, device=rank.device)[:, None]


def _context_anchors(values: Tensor, salient: Tensor, counts: Sequence[int], neighbors: int) -> dict[int, Tensor]:
    """Return a map from each frame with anchors to the cells of its anchors, ascending.

    The anchors of a frame are the best density peaks among the tokens that are not salient. Frames
    are in ascending order.

    Args:
        values: [F, n, D].
        salient: bool [F, n].
        counts: the number of anchors of each frame.
        neighbors: the number of nearest tokens that define a density.
    """
    anchors: dict[int, Tensor] = {}
    free_counts = (~salient).sum(1).tolist()
    anchor_frames = [frame for frame, count in enumerate(counts) if count]
    # Frames with the same number of free tokens form one batch.
    for free_count in sorted({free_counts[frame] for frame in anchor_frames}):
        batch = [frame for frame in anchor_frames if free_counts[frame] == free_count]
        free = (~salient[batch]).nonzero()[:, 1].view(len(batch), free_count)
        scores = density_peak_scores(take_rows(values[batch], free), min(neighbors, free_count))
        ranked = free.gather(1, scores.sort(dim=-1, descending=True, stable=True).indices)
        anchors |= {frame: ranked[row, : counts[frame]].sort().values for row, frame in enumerate(batch)}
    return {frame: anchors[frame] for frame in anchor_frames}


def _anchor_sources(
    salient: Tensor, clip: Clip, nearest: Tensor, frame: int, anchors: Tensor, own_weight: Tensor
) -> SourceWeights:
    """Return the sources of the context tokens of `frame`, one for each cell in `anchors`.

    A context token is `own_weight` times the anchor plus 1 - `own_weight` times the mean of the
    tokens that `nearest` assigns to the anchor. For each token of `clip` that is not salient,
    `nearest` has the index of an anchor.
    """
    frames, per_frame = salient.shape
    indices = torch.arange(frames * per_frame, device=salient.device).view(frames, per_frame)
    # The same tokens and order as `members` in `_merge`, where `nearest` was computed.
    members = indices[clip.first : clip.stop][~salient[clip.first : clip.stop]]
    return blended(unchanged(indices[frame, anchors]), merged(unchanged(members), nearest), own_weight)
