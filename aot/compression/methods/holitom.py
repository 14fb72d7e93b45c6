"""HoliTom (arXiv 2505.21334) before the language model: outer merging."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import joined_parts, pooled_cells, pooled_saliency, whole_video
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.peak_clusters import members_of, nearest_centers
from aot.compression.ops.redundancy import (
    Quota,
    Redundancy,
    least_similarities,
    most_saving_clips,
    share_out,
)
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import blended, chosen, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, SourceWeights, TokenBudget, VisualTokens

__all__ = ["HoliTom"]

# The published thresholds for a ratio of 10 % and of 15 % or more; the limit is the midpoint.
_THRESHOLD_LOW, _THRESHOLD_HIGH, _BETWEEN = 0.65, 0.80, Fraction(1, 8)


@dataclass(frozen=True)
class HoliTom(CheckedSettings):
    """Average the static tokens of each segment, and keep the most attended dynamic tokens.

    This is the part of HoliTom before the language model ("w/o M" in the paper's tables). The video
    is cut into the segments whose static positions save the most tokens. Each static position of a
    segment becomes one token, the mean over the frames of the segment. These static tokens are
    clustered around density peaks, and each cluster becomes one token. The tokens at all other
    positions are dynamic; every frame keeps its most attended dynamic tokens.

    The budget is exact. The static tokens of each segment form one set, the dynamic tokens of each
    frame another. Every set keeps a share of the budget in proportion to its size (by largest
    remainder, at least one token if possible; the paper rounds up or to the nearest). If averaging
    leaves fewer tokens than the budget, the least similar static positions become dynamic until
    there are enough tokens.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2505.21334, NeurIPS 2025",
        remark="one token for what stays the same in a segment, else each frame's most attended; see --inner holitom",
    )

    static_similarity: float | None = setting(
        None,
        "A position is static if its cosine similarity to the next frame is above this all through the segment; "
        "null takes the published 0.65 up to a ratio of 1/8, else 0.8.",
        least=-1,
        most=1,
    )
    center_share: float = setting(
        0.6, "Weight of the center in a merged token; the rest is the mean of the others.", least=0, most=1
    )
    neighbors: int = setting(
        7,
        "Number of nearest tokens that define a density, including the token itself; at most the number of clusters.",
        least=1,
    )
    layer: int = setting(-1, "Block of the vision tower whose attention ranks dynamic tokens.")
    paper_exact: bool = setting(False, "Use the published counts, which give more or fewer tokens than the budget.")

    @property
    def needs(self) -> Needs:
        """Return the vision tower block whose attention ranks dynamic tokens."""
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; in each segment, static tokens precede dynamic tokens.

        A static token has the first frame of its segment and the cell of its cluster's center.

        Raises:
            BudgetError: If `budget` is 0, or if `paper_exact` would keep nothing.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        total = math.prod(pooled_cells(tokens))
        features = pool(tokens.features, tokens.grid, tokens.pool)
        features = features.to(working_dtype(features))
        # 1. Segments and their static positions.
        threshold = self._threshold(Fraction(budget, total))
        redundancy = _segment(features, threshold)
        # 2. The number of tokens that every static set and every frame keeps.
        if self.paper_exact:
            quotas = _published_quotas(TokenBudget.ratio_of(budget, total) * total, redundancy.capacity())
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        # 3. The most attended dynamic tokens of every frame.
        saliency = pooled_saliency(tokens, self.layer).to(features.device)
        kept = _most_attended(saliency, redundancy, quotas)
        # 4. Static tokens merged into density peaks, and all tokens in order.
        facts = {"segments": len(redundancy.clips), "static_similarity": threshold}
        parts = self._emit(features, redundancy, quotas, kept, traced=tokens.traced)
        return joined_parts(tokens, parts, redundancy.clips, facts)

    def _threshold(self, ratio: Fraction) -> float:
        """Return the similarity above which a position is static, given the ratio `ratio`."""
        if self.static_similarity is not None:
            return self.static_similarity
        return _THRESHOLD_LOW if ratio <= _BETWEEN else _THRESHOLD_HIGH

    def _emit(
        self, features: Tensor, redundancy: Redundancy, quotas: Sequence[Quota], kept: Tensor, *, traced: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, SourceWeights | None]]:
        """Yield the features, indices, masses and sources of the kept tokens, segment by segment.

        In each segment, static tokens come first. `kept` holds the indices of the kept dynamic
        tokens among the F * n pooled tokens. Sources are None unless `traced`.
        """
        positions = features.shape[1]
        dynamic = torch.split(kept, [sum(quota.dynamic) for quota in quotas])
        for clip, static, quota, own in zip(redundancy.clips, redundancy.static, quotas, dynamic, strict=True):
            if quota.static:
                where = static.nonzero()[:, 0]
                # A static token is the mean over the frames of its segment.
                means = features[clip.first : clip.stop, where].mean(0)
                values, centers, members, owner = self._merged(means, quota.static)
                sources = self._static_sources(clip, where, positions, centers, owner) if traced else None
                yield values, clip.first * positions + where[centers], members * len(clip), sources
            yield features.flatten(0, 1)[own], own, features.new_ones(len(own)), unchanged(own) if traced else None

    def _merged(self, means: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Merge the static tokens `means` [s, D] into K = `clusters` tokens.

        Returns:
            The merged tokens [K, D]; the ascending indices [K] of the centers among the static
            tokens; the cluster sizes [K]; the cluster of each static token [s].
        """
        # Nothing to merge.
        if clusters == len(means):
            each = torch.arange(clusters, device=means.device)
            return means, each, means.new_ones(clusters), each
        centers = density_peaks(means[None], clusters, min(self.neighbors, clusters)).sort().values
        owner = nearest_centers(means[None], centers)
        # Exclude the center from its members, because its weight is fixed.
        others = members_of(owner, clusters, means.dtype).scatter(2, centers[..., None], 0)[0]
        counts, own = others.sum(-1), means[centers[0]]
        # Blend the center and the mean of its other members with fixed weights.
        mixed = self.center_share * own + (1 - self.center_share) * (others @ means) / counts.clamp_min(1)[:, None]
        return torch.where(counts[:, None] > 0, mixed, own), centers[0], counts + 1, owner[0]

    def _static_sources(
        self, clip: Clip, where: Tensor, positions: int, centers: Tensor, owner: Tensor
    ) -> SourceWeights:
        """Return the sources of the merged static tokens of one segment.

        Args:
            clip: the segment over which static positions are averaged.
            where: [s], the static positions.
            positions: n, the number of positions per frame.
            centers: [K], the indices of the centers in `where`.
            owner: [s], the cluster of each static position.
        """
        indices = torch.arange(clip.first, clip.stop, device=where.device)[:, None] * positions + where
        # First the mean over the frames, then the blend within clusters.
        means = merged(unchanged(indices), torch.arange(len(owner)).expand_as(indices))
        others = merged(means, owner.index_fill(0, centers, -1))
        return blended(chosen(means, centers), others, self.center_share)


def _segment(features: Tensor, threshold: float) -> Redundancy:
    """Return segments of features [F, n, D]; positions are static above `threshold`."""
    # The similarity of each position from one frame to the next.
    similarity = functional.cosine_similarity(features[:-1], features[1:], dim=-1)
    clips = most_saving_clips(similarity > threshold)
    return Redundancy.above(threshold, clips, least_similarities(similarity, clips))


def _published_quotas(wanted: float, capacity: Sequence[Quota]) -> tuple[Quota, ...]:
    """Return the published numbers of tokens to keep from each static set and each frame.

    The share kept is the same for all sets and is computed in floating point. Counts of static sets
    are rounded to the nearest integer, counts of frames up. `wanted` is the ratio times the number
    of tokens, not rounded; `capacity` holds the numbers of tokens after averaging.
    """
    # If averaging leaves fewer tokens than wanted, all are kept.
    share = min(wanted / sum(quota.total for quota in capacity), 1.0)
    return tuple(
        Quota(round(quota.static * share), tuple(math.ceil(count * share) for count in quota.dynamic))
        for quota in capacity
    )


def _most_attended(saliency: Tensor, redundancy: Redundancy, quotas: Sequence[Quota]) -> Tensor:
    """Return the most attended dynamic tokens of all frames: ascending indices [K].

    Indices are into the F * n pooled tokens. `saliency` is [F, n]; ties go to the lower index.
    """
    device = saliency.device
    # One row per frame: the static positions of its segment.
    lengths = torch.tensor([len(clip) for clip in redundancy.clips], device=device)
    static = redundancy.static.repeat_interleave(lengths, 0)
    # Static positions rank last; no quota exceeds the number of dynamic tokens of a frame.
    ranked = saliency.masked_fill(static, -torch.inf).sort(descending=True, stable=True).indices
    counts = torch.tensor([count for quota in quotas for count in quota.dynamic], device=device)
    chosen = torch.arange(saliency.shape[1], device=device) < counts[:, None]
    return torch.zeros_like(static).scatter(1, ranked, chosen).flatten().nonzero()[:, 0]
