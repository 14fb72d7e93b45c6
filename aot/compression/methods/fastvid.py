"""FastVID: the most attended tokens of each frame, and density peaks that speak for the rest of a segment.

LLaVA-OneVision's variant (arXiv 2503.11187; docs/methods.md). Tokens stay in the order of the video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, Provenance, VisualTokens

__all__ = ["FastVid"]


@dataclass(frozen=True)
class FastVid:
    """Salient tokens by the pooling head's attention, and context tokens merged over each segment.

    segments, threshold: a cut after the segments - 1 least similar pairs of frames, and wherever the similarity is
    below the threshold. context_share: of a frame's tokens, the share that goes to context. anchor_stride_frames: the
    last frame of a segment has context anchors, and every so manyth before it. own_weight: how much of an anchor stays
    when it absorbs others. neighbours: of the density peaks.

    A budget is met to the token: frames get equal shares (`even_shares`), of which floor(context_share * share) are
    for context; a segment's context is spread over its anchor frames, and what exceeds their tokens goes to the most
    attended of its other frames. With `paper_exact` every frame gets floor(budget / F), and shares are rounded down.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2503.11187, NeurIPS 2025",
        remark="each frame's most attended tokens, and a few that absorb the rest of their segment",
    )
    needs: ClassVar = Needs(frame_embeddings=True, pooling_attention=True)

    segments: int = 8
    threshold: float = 0.9
    context_share: float = 0.4
    anchor_stride_frames: int = 4
    own_weight: float = 0.6
    neighbours: int = 4
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(
            segments=(self.segments >= 1, f"must be at least 1, got {self.segments}"),
            threshold=(-1 <= self.threshold <= 1, f"must be in [-1, 1], got {self.threshold}"),
            context_share=(0 <= self.context_share <= 1, f"must be in [0, 1], got {self.context_share}"),
            anchor_stride_frames=(self.anchor_stride_frames >= 1, "must be at least 1"),
            own_weight=(0 <= self.own_weight <= 1, f"must be in [0, 1], got {self.own_weight}"),
            neighbours=(self.neighbours >= 1, f"must be at least 1, got {self.neighbours}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, at most as many.

        Raises:
            BudgetError: there is nothing to keep, or with `paper_exact` less than one token per frame.
        """
        if tokens.frame_embeddings is None or tokens.pooling_attention is None:
            raise ValueError("frame_embeddings, pooling_attention: expected [F, E] and [F, N], got None")
        features = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = features.shape
        check_budget(tokens, budget, frames if self.paper_exact else 1, f" for {frames} frames, with paper_exact")
        clips = dynamic_clips(tokens.frame_embeddings, self.segments, self.threshold)
        if budget >= frames * per_frame:
            return keep_subset(tokens, torch.arange(frames * per_frame), clips)
        salient_counts, anchor_counts = self._counts(budget, per_frame, frames, clips)
        attention = pool(tokens.pooling_attention[..., None], tokens.grid, tokens.pool)[..., 0]
        salient = _most_attended(attention, salient_counts)
        values = features.to(working_dtype(features))
        anchors = _context_anchors(values, salient, anchor_counts, self.neighbours)
        merged, absorbed, made_of = self._merge(values, salient, anchors, clips)
        places = [frame * per_frame + cells for frame, cells in anchors.items()]
        kept = salient.flatten().nonzero()[:, 0]
        index, order = torch.cat([kept, *places]).sort(stable=True)

        def provenance() -> Provenance:
            return Shares.joined([Shares.of(kept), *(each() for each in made_of)]).chosen(order).provenance()

        return kept_tokens(
            tokens,
            torch.cat([features.reshape(-1, width)[kept], *(each.to(features.dtype) for each in merged)])[order],
            index,
            mass=torch.cat([torch.ones_like(kept), *absorbed])[order],
            clips=clips,
            facts={"salient_tokens": len(kept), "context_tokens": len(index) - len(kept)},
            provenance=provenance,
        )

    def _counts(
        self, budget: int, per_frame: int, frames: int, clips: Sequence[Clip]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Salient tokens and context anchors of every frame."""
        shares = (budget // frames,) * frames if self.paper_exact else even_shares(budget, frames)
        context = [math.floor(share * self.context_share) for share in shares]
        salient = [share - own for share, own in zip(shares, context, strict=True)]
        anchors = [0] * frames
        for clip in clips:
            speakers = range(clip.stop - 1, clip.first - 1, -self.anchor_stride_frames)[::-1]
            silent = [frame for frame in range(clip.first, clip.stop) if frame not in speakers]
            room = [per_frame - salient[frame] for frame in speakers]
            wanted = sum(context[clip.first : clip.stop])
            given = min(wanted, sum(room))
            own = [min(wanted // len(room), room[0])] * len(room) if self.paper_exact else spread(given, room)
            for frame, count in zip(speakers, own, strict=True):
                anchors[frame] = count
            excess = 0 if self.paper_exact else wanted - given
            for frame, count in zip(
                silent, spread(excess, [per_frame - salient[frame] for frame in silent]), strict=True
            ):
                salient[frame] += count
        return tuple(salient), tuple(anchors)

    def _merge(
        self, values: Tensor, salient: Tensor, anchors: dict[int, Tensor], clips: Sequence[Clip]
    ) -> tuple[list[Tensor], list[Tensor], list[Callable[[], Shares]]]:
        """For each frame with anchors [a], these after absorbing [a, D], how many tokens each speaks for [a], and what
        works out what they are made of.

        Every such frame takes in all of its segment's tokens that are not salient, its own and its anchors included.
        """
        merged, absorbed, made_of = [], [], list[Callable[[], Shares]]()
        for clip in clips:
            speakers = [frame for frame in anchors if clip.first <= frame < clip.stop]
            members = values[clip.first : clip.stop][~salient[clip.first : clip.stop]]
            directions = functional.normalize(members, dim=-1)
            for frame in speakers:
                own = values[frame, anchors[frame]]
                nearest = (directions @ functional.normalize(own, dim=-1).mT).argmax(-1)
                # A product, as scattered sums differ from run to run on CUDA devices.
                belongs = (nearest[:, None] == torch.arange(len(own), device=own.device)).to(own.dtype)
                count = belongs.sum(0)[:, None]
                weight = (1 / (count + 1)).clamp_min(self.own_weight)
                merged.append(weight * own + (1 - weight) * (belongs.mT @ members) / count.clamp_min(1))
                absorbed.append(count[:, 0].clamp_min(1))
                made_of.append(partial(_speaking, salient, clip, nearest, frame, anchors[frame], weight))
        return merged, absorbed, made_of


def _speaking(salient: Tensor, clip: Clip, nearest: Tensor, frame: int, anchors: Tensor, weight: Tensor) -> Shares:
    """A frame's anchors [a], of which `weight` is their own, with the nearest of their clip's tokens that are not
    salient.
    """
    frames, per_frame = salient.shape
    places = torch.arange(frames * per_frame, device=salient.device).view(frames, per_frame)
    members = places[clip.first : clip.stop][~salient[clip.first : clip.stop]]
    return Shares.of(places[frame, anchors]).blended(Shares.of(members).merged(nearest), weight[:, 0])


def _most_attended(attention: Tensor, counts: Sequence[int]) -> Tensor:
    """The `counts` [F] greatest of attention [F, n]: bool [F, n]; of equal ones the lower index."""
    rank = attention.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return rank < torch.tensor(counts, device=rank.device)[:, None]


def _context_anchors(values: Tensor, salient: Tensor, counts: Sequence[int], neighbours: int) -> dict[int, Tensor]:
    """Frame -> its best density peaks [a], ascending, among its tokens that are not salient; frames in ascending order.

    values: [F, n, D]. salient: bool [F, n]. counts: a for each frame; those with none are left out.
    """
    anchors: dict[int, Tensor] = {}
    free_counts = (~salient).sum(1).tolist()
    speakers = [frame for frame, count in enumerate(counts) if count]
    for free_count in sorted({free_counts[frame] for frame in speakers}):  # frames alike in this are one batch
        batch = [frame for frame in speakers if free_counts[frame] == free_count]
        free = (~salient[batch]).nonzero()[:, 1].view(len(batch), free_count)
        scores = density_peak_scores(take_rows(values[batch], free), min(neighbours, free_count))
        ranked = free.gather(1, scores.sort(dim=-1, descending=True, stable=True).indices)
        anchors |= {frame: ranked[row, : counts[frame]].sort().values for row, frame in enumerate(batch)}
    return {frame: anchors[frame] for frame in speakers}
