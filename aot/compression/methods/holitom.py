"""HoliTom before the language model: segments that repeat most, static tokens averaged, the rest by attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import joined_parts, pooled_cells, pooled_saliency, whole_video
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.peak_clusters import members_of, nearest_centres
from aot.compression.ops.redundancy import (
    Quota,
    Redundancy,
    least_similarities,
    most_saving_clips,
    places_of,
    share_out,
)
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, TokenBudget, VisualTokens

__all__ = ["HoliTom"]

# The published thresholds, for 10 % and for 15 % and more; the nearer one is taken.
_THRESHOLD_LOW, _THRESHOLD_HIGH, _BETWEEN = 0.65, 0.80, Fraction(1, 8)


@dataclass(frozen=True)
class HoliTom:
    """The outer part of HoliTom ("w/o M" in its tables): everything it does before the language model.

    The video is cut where static positions save most. Those become one token per segment, clustered around density
    peaks; of the others each frame keeps the most attended.

    Exactly the budget: it is shared among static sets and frames in proportion to their size (largest remainder, but
    one at least while it lasts; the publication rounds up or to the nearest). Where averaging alone leaves fewer tokens
    than the budget, the positions that changed most within their segment become dynamic again, until it is enough.

    static_similarity: a position is static while its cosine with the next frame's is above; None takes the
    published 0.65 up to an eighth of the tokens, else 0.80. centre_share: how much of a merged token is the centre
    itself. neighbours: tokens that make the density, at most as many as clusters. layer: the block whose attention
    ranks dynamic tokens. paper_exact: counts as published, so more or fewer tokens than the budget.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2505.21334, NeurIPS 2025",
        remark="one token for what stays the same in a segment, else each frame's most attended; see --inner holitom",
    )

    static_similarity: float | None = None
    centre_share: float = 0.6
    neighbours: int = 7
    layer: int = -1
    paper_exact: bool = False

    def __post_init__(self) -> None:
        threshold = self.static_similarity
        check(
            static_similarity=(threshold is None or -1 <= threshold <= 1, f"must be in [-1, 1], got {threshold}"),
            centre_share=(0 <= self.centre_share <= 1, f"must be in [0, 1], got {self.centre_share}"),
            neighbours=(self.neighbours >= 1, f"must be at least 1, got {self.neighbours}"),
        )

    @property
    def needs(self) -> Needs:
        return Needs(saliency_layers=(self.layer,))

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Segment by segment the static tokens at their place in its first frame, then the frames' dynamic ones.

        Raises:
            BudgetError: no token is asked for, or (paper_exact) none is left.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        total = math.prod(pooled_cells(tokens))
        features = pool(tokens.features, tokens.grid, tokens.pool)
        features = features.to(working_dtype(features))
        threshold = self._threshold(Fraction(budget, total))
        redundancy = _segment(features, threshold)
        if self.paper_exact:
            quotas = _published_quotas(TokenBudget.ratio_of(budget, total) * total, redundancy.capacity())
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        saliency = pooled_saliency(tokens, self.layer).to(features.device)
        kept = _most_attended(saliency, redundancy, quotas)
        facts = {"segments": len(redundancy.clips), "static_similarity": threshold}
        return joined_parts(tokens, self._emit(features, redundancy, quotas, kept), redundancy.clips, facts)

    def _threshold(self, ratio: Fraction) -> float:
        if self.static_similarity is not None:
            return self.static_similarity
        return _THRESHOLD_LOW if ratio <= _BETWEEN else _THRESHOLD_HIGH

    def _emit(
        self, features: Tensor, redundancy: Redundancy, quotas: Sequence[Quota], kept: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Callable[[], Shares]]]:
        """Features, place and mass of each segment's static tokens, then of its dynamic ones, and what works out what
        they are made of; kept: [F * n] indices.
        """
        positions = features.shape[1]
        dynamic = torch.split(kept, [sum(quota.dynamic) for quota in quotas])
        for clip, static, quota, own in zip(redundancy.clips, redundancy.static, quotas, dynamic, strict=True):
            if quota.static:
                where = static.nonzero()[:, 0]
                means = features[clip.first : clip.stop, where].mean(0)
                values, centres, members, owner = self._merged(means, quota.static)
                made_of = partial(self._static_shares, clip, where, positions, centres, owner)
                yield values, clip.first * positions + where[centres], members * len(clip), made_of
            yield features.flatten(0, 1)[own], own, features.new_ones(len(own)), partial(Shares.of, own)

    def _merged(self, means: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Static tokens [s, D] as `clusters` ones [K, D], the indices of their centres, ascending, their sizes, and the
        one that each static token belongs to [s].
        """
        if clusters == len(means):
            each = torch.arange(clusters, device=means.device)
            return means, each, means.new_ones(clusters), each
        centres = density_peaks(means[None], clusters, min(self.neighbours, clusters)).sort().values
        owner = nearest_centres(means[None], centres)
        others = members_of(owner, clusters, means.dtype).scatter(2, centres[..., None], 0)[0]
        counts, own = others.sum(-1), means[centres[0]]
        mixed = self.centre_share * own + (1 - self.centre_share) * (others @ means) / counts.clamp_min(1)[:, None]
        return torch.where(counts[:, None] > 0, mixed, own), centres[0], counts + 1, owner[0]

    def _static_shares(self, clip: Clip, where: Tensor, positions: int, centres: Tensor, owner: Tensor) -> Shares:
        """Of positions `where` [s], averaged over a clip, the centres [K], to which the others belong by owner [s]."""
        places = places_of(clip, where, positions)
        means = Shares.of(places).merged(torch.arange(len(where)).expand_as(places))
        others = means.merged(owner.index_fill(0, centres, -1))
        return means.chosen(centres).blended(others, self.centre_share)


def _segment(features: Tensor, threshold: float) -> Redundancy:
    """Segments and static positions of features [F, n, D]."""
    similarity = functional.cosine_similarity(features[:-1], features[1:], dim=-1)
    clips = most_saving_clips(similarity > threshold)
    return Redundancy.above(threshold, clips, least_similarities(similarity, clips))


def _published_quotas(wanted: float, capacity: Sequence[Quota]) -> tuple[Quota, ...]:
    """Shares of all that remains after averaging, static sets rounded to the nearest and frames up, in floating point
    as published. wanted: ratio times tokens, not rounded.
    """
    share = min(wanted / sum(quota.total for quota in capacity), 1.0)
    return tuple(
        Quota(round(quota.static * share), tuple(math.ceil(count * share) for count in quota.dynamic))
        for quota in capacity
    )


def _most_attended(saliency: Tensor, redundancy: Redundancy, quotas: Sequence[Quota]) -> Tensor:
    """The dynamic tokens that frames keep, as ascending indices into all F * n, by saliency [F, n]."""
    device = saliency.device
    lengths = torch.tensor([len(clip) for clip in redundancy.clips], device=device)
    static = redundancy.static.repeat_interleave(lengths, 0)
    ranked = saliency.masked_fill(static, -torch.inf).sort(descending=True, stable=True).indices
    counts = torch.tensor([count for quota in quotas for count in quota.dynamic], device=device)
    chosen = torch.arange(saliency.shape[1], device=device) < counts[:, None]
    return torch.zeros_like(static).scatter(1, ranked, chosen).flatten().nonzero()[:, 0]
