"""HoliTom (arXiv 2505.21334) before the language model: outer merging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import LOCAL_WINDOWS, Part, joined_parts, pooled_cells, pooled_saliency, whole_video
from aot.compression.ops.grid import pool
from aot.compression.ops.padding import longest, true_indices
from aot.compression.ops.peak_clusters import PeakClusters
from aot.compression.ops.products import take_rows
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.redundancy import (
    Quota,
    Redundancy,
    TokenSets,
    least_similarity,
    most_saving_clips,
    share_out,
)
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.source_weights import blended, chosen, joined, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, SourceWeights, TokenBudget, VisualTokens

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
    local_windows: bool = setting(False, LOCAL_WINDOWS)

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
            budget = int(quotas.total)  # published counts depend on the content, and are read
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        # 3. Static tokens merged into density peaks, and the most attended dynamic tokens.
        parts = [*self._static(features, redundancy, quotas.static, budget, traced=tokens.traced)]
        saliency = pooled_saliency(tokens, self.layer, budget if self.local_windows else None).to(features.device)
        parts.append(_most_attended(features, saliency, redundancy, quotas.dynamic, budget, traced=tokens.traced))
        # 4. All tokens in order.
        clips = redundancy.clips
        facts = counted_later({"segments": clips.total}, {"static_similarity": threshold})
        return joined_parts(tokens, parts, budget, clips, facts)

    def _threshold(self, ratio: Fraction) -> float:
        """Return the similarity above which a position is static, given the ratio `ratio`."""
        if self.static_similarity is not None:
            return self.static_similarity
        return _THRESHOLD_LOW if ratio <= _BETWEEN else _THRESHOLD_HIGH

    def _static(
        self, features: Tensor, redundancy: Redundancy, counts: Tensor, budget: int, *, traced: bool
    ) -> Iterator[Part]:
        """Yield the merged static tokens: counts[f] tokens of a segment with the first frame f.

        `features` is [F, n, D]; `budget` is the number of all kept tokens.
        """
        per_frame = features.shape[1]
        for frames in redundancy.clips.batches():
            most = longest(counts[frames], min(budget, per_frame))
            if not most:
                continue
            static = TokenSets.static(features, redundancy, frames)
            quota = static.counts(counts)
            clusters = PeakClusters.build(
                static.values, static.valid, quota, most, neighbors=self.neighbors, most_neighbors=quota
            )
            values, members = self._merged(static.values, clusters)
            first = static.first[:, None] * per_frame
            yield Part(
                values.flatten(0, 1),
                (first + static.cells.gather(1, clusters.centers)).flatten(),
                (members * static.length[:, None]).flatten(),
                (2 * first).expand_as(members).flatten(),
                clusters.valid.flatten(),
                self._static_sources(static, clusters, per_frame) if traced else None,
            )

    def _merged(self, means: Tensor, clusters: PeakClusters) -> tuple[Tensor, Tensor]:
        """Return the clusters of `means` [C, P, D] as tokens [C, K, D], and their sizes [C, K]."""
        # Exclude the center from its members, because its weight is fixed.
        others = clusters.members(means.dtype).scatter(2, clusters.centers[..., None], 0)
        counts, own = others.sum(-1, keepdim=True), take_rows(means, clusters.centers)
        # Blend the center and the mean of its other members with fixed weights.
        mixed = self.center_share * own + (1 - self.center_share) * (others @ means) / counts.clamp_min(1)
        return torch.where(counts > 0, mixed, own), counts[..., 0] + 1

    def _static_sources(self, static: TokenSets, clusters: PeakClusters, per_frame: int) -> SourceWeights:
        """Return the sources of the merged static tokens of all segments."""
        found = [unchanged(torch.empty(0, dtype=torch.long))]
        for number, (first, length) in enumerate(zip(static.first.tolist(), static.length.tolist(), strict=True)):
            held = static.valid[number]
            where, owner = static.cells[number][held], clusters.owner[number][held]
            centers = clusters.centers[number][clusters.valid[number]]
            if not len(centers):
                continue
            # First the mean over the frames, then the blend within clusters.
            indices = torch.arange(first, first + length, device=where.device)[:, None] * per_frame + where
            means = merged(unchanged(indices), torch.arange(len(owner)).expand_as(indices))
            others = merged(means, owner.index_fill(0, centers, -1))
            found.append(blended(chosen(means, centers), others, self.center_share))
        return joined(found)


def _segment(features: Tensor, threshold: float) -> Redundancy:
    """Return segments of features [F, n, D]; positions are static above `threshold`."""
    # The similarity of each position from one frame to the next.
    similarity = functional.cosine_similarity(features[:-1], features[1:], dim=-1)
    clips = most_saving_clips(similarity > threshold)
    return Redundancy.above(threshold, clips, least_similarity(similarity, clips))


def _published_quotas(wanted: float, capacity: Quota) -> Quota:
    """Return the published numbers of tokens to keep from each static set and each frame.

    The share kept is the same for all sets and is computed in floating point. Counts of static sets
    are rounded to the nearest integer, counts of frames up. `wanted` is the ratio times the number
    of tokens, not rounded; `capacity` holds the numbers of tokens after averaging.
    """
    # If averaging leaves fewer tokens than wanted, all are kept.
    total = capacity.total
    share = (wanted / total.to(decision_dtype(total))).clamp(max=1)
    return Quota((capacity.static * share).round().long(), (capacity.dynamic * share).ceil().long())


def _most_attended(
    features: Tensor, saliency: Tensor, redundancy: Redundancy, counts: Tensor, budget: int, *, traced: bool
) -> Part:
    """Return the most attended dynamic tokens: counts[f] tokens of each frame f, ascending.

    `features` is [F, n, D], `saliency` [F, n]; ties go to the lower index. `budget` is the number
    of all kept tokens.
    """
    static = redundancy.static
    # Static positions rank last; no quota exceeds the number of dynamic tokens of a frame.
    ranked = saliency.masked_fill(static, -torch.inf).sort(descending=True, stable=True).indices
    chosen = torch.arange(saliency.shape[1], device=static.device) < counts[:, None]
    kept = torch.zeros_like(static).scatter(1, ranked, chosen)
    index = true_indices(kept, longest(counts.sum(0, keepdim=True), budget))
    valid = torch.arange(len(index), device=index.device) < counts.sum()
    # In the order of the video, but after the static tokens of the segment's first frame.
    order = 2 * index + 1
    values = features.flatten(0, 1)[index]
    return Part(values, index, values.new_ones(len(index)), order, valid, unchanged(index[valid]) if traced else None)
