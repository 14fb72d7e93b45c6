"""FlashVID before the language model: diverse attended tokens, and trees of similar tokens across frames.

The outer part of arXiv 2602.08024 (docs/methods.md). The published method keeps a quarter more than the ratio here and
prunes that inside the language model; here the ratio is what enters the language model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, keep_subset, kept_tokens, pooled_saliency
from aot.compression.ops.budget import even_shares, spread
from aot.compression.ops.clips import dynamic_clips
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, Provenance, TokenBudget, VisualTokens

__all__ = ["FlashVid"]


@dataclass(frozen=True)
class FlashVid:
    """Diverse tokens of each frame (ADTS), and the rest merged along time (TSTM), then within frames.

    segments, threshold: a cut after the segments - 1 least similar pairs of frames, and wherever the similarity is
    below the threshold. diverse_share: of a frame's tokens, the share chosen for diversity. link_similarity: a token
    more similar to one of the frame before becomes part of it. neighbours: of the density peaks. expansion: how much
    more than the ratio is kept, with `paper_exact` only.

    A budget is met to the token: frames get equal shares (`even_shares`), of which ceil(diverse_share * share) are
    for diverse tokens. A segment's remaining tokens are spread over its frames in proportion to the trees that begin
    there, and only so many links hold, the most similar first, that there are as many trees. With `paper_exact` every
    frame gets ceil(n * ratio * expansion), and counts are those of floating point; trees are divided by the number of
    their root's children plus one; a segment of one frame also clusters its diverse tokens, so that places repeat;
    diverse tokens may repeat.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2602.08024, ICLR 2026",
        remark="attended tokens unlike each other; the rest merges along time, then in frames; see --inner flashvid",
    )
    # The published mean over queries is this sum over them / N; no choice depends on the factor.
    needs: ClassVar = Needs(saliency_layers=(-1,))

    segments: int = 8
    threshold: float = 0.9
    diverse_share: float = 0.7
    link_similarity: float = 0.8
    neighbours: int = 7
    expansion: float = 1.25
    paper_exact: bool = False

    def __post_init__(self) -> None:
        check(
            segments=(self.segments >= 1, f"must be at least 1, got {self.segments}"),
            threshold=(-1 <= self.threshold <= 1, f"must be in [-1, 1], got {self.threshold}"),
            diverse_share=(0 <= self.diverse_share <= 1, f"must be in [0, 1], got {self.diverse_share}"),
            link_similarity=(-1 <= self.link_similarity <= 1, f"must be in [-1, 1], got {self.link_similarity}"),
            neighbours=(self.neighbours >= 1, f"must be at least 1, got {self.neighbours}"),
            expansion=(1 <= self.expansion < math.inf, f"must be at least 1, got {self.expansion}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, about `expansion` times as many.

        Raises:
            BudgetError: there is nothing to keep.
        """
        features = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = features.shape
        check_budget(tokens, budget)
        values = features.to(working_dtype(features))
        clips = dynamic_clips(values.mean(1), self.segments, self.threshold)
        if budget >= frames * per_frame:
            return keep_subset(tokens, torch.arange(frames * per_frame), clips)
        shares = self._shares(budget, frames, per_frame)
        diverse_counts = [math.ceil(self.diverse_share * share) for share in shares]
        diverse = self._diverse(values, pooled_saliency(tokens, -1), diverse_counts, clips)
        free = torch.ones(frames, per_frame, dtype=torch.bool, device=diverse.device)
        free.view(-1)[diverse] = False
        similarity, parent = nearest_before(values, free)
        linked = self._linked(similarity, shares, clips)
        trees, sizes = merge_trees(values, parent, linked, children_count_once=self.paper_exact)
        roots = self._roots(free & ~linked, clips)
        rest = [share - count for share, count in zip(shares, diverse_counts, strict=True)]
        clusters = self._clusters(rest, roots.sum(1).tolist(), clips)
        merged, places, mass, nearest = _cluster_frames(trees, sizes, roots, clusters, self.neighbours)
        index, order = torch.cat([diverse, places]).sort(stable=True)
        once = self.paper_exact

        def provenance() -> Provenance:
            clustered = _clustered_trees(parent, linked, roots, nearest, children_count_once=once)
            return Shares.joined([Shares.of(diverse), clustered]).chosen(order).provenance()

        return kept_tokens(
            tokens,
            torch.cat([features.reshape(-1, width)[diverse], merged.to(features.dtype)])[order],
            index,
            mass=torch.cat([mass.new_ones(len(diverse)), mass])[order],
            clips=clips,
            facts={"diverse_tokens": len(diverse), "merged_tokens": len(places)},
            provenance=provenance,
        )

    def _shares(self, budget: int, frames: int, per_frame: int) -> tuple[int, ...]:
        """Tokens of every frame before they are spread over its segment."""
        if self.paper_exact:
            ratio = TokenBudget.ratio_of(budget, frames * per_frame)
            return (min(math.ceil(per_frame * ratio * self.expansion), per_frame),) * frames
        return even_shares(budget, frames)

    def _diverse(self, values: Tensor, attention: Tensor, counts: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """The `counts` [F] diverse tokens of every frame, ascending indices into all F * n.

        A token's distances are 1 - cosine, times its attention, times its product with the mean of its segment.
        """
        unit = functional.normalize(values, dim=-1)
        relevance = [_within(values, clip) @ _within(values, clip).mean((0, 1)) for clip in clips]
        weights = attention.to(values.dtype) * torch.cat(relevance)
        distances = (1 - unit @ unit.mT) * weights[:, None, :]
        distances.diagonal(dim1=1, dim2=2).zero_()
        picks = max_min_picks(distances, max(counts), repeats=self.paper_exact)
        first = torch.arange(len(values), device=picks.device)[:, None] * values.shape[1]
        wanted = torch.arange(picks.shape[1], device=picks.device) < torch.tensor(counts, device=picks.device)[:, None]
        return (first + picks)[wanted].sort().values

    def _linked(self, similarity: Tensor, shares: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """Which tokens become part of one in the frame before, by their similarity to it [F, n]: bool [F, n].

        In a segment, no more than leave as many trees as there are tokens to keep.
        """
        linked = similarity > self.link_similarity
        for clip in clips:
            linked[clip.first] = False
            own = _within(similarity, clip)[1:].flatten()
            room = len(clip) * similarity.shape[1] - sum(shares[clip.first : clip.stop])
            if _within(linked, clip).sum() <= room:
                continue
            ranked = own.sort(descending=True, stable=True)
            if self.paper_exact:
                held = own > (ranked.values[room - 1] if room else torch.inf)
            else:
                held = ranked.indices.argsort() < room
            linked[clip.first + 1 : clip.stop] = held.view(len(clip) - 1, -1)
        return linked

    def _roots(self, roots: Tensor, clips: Sequence[Clip]) -> Tensor:
        """The tokens to be clustered, bool [F, n]: where trees begin, and with `paper_exact` all of a lone frame."""
        for clip in clips:
            roots[clip.first] |= self.paper_exact and len(clip) == 1
        return roots

    def _clusters(self, rest: Sequence[int], roots: Sequence[int], clips: Sequence[Clip]) -> list[int]:
        """How many clusters every frame's roots form."""
        clusters: list[int] = []
        for clip in clips:
            own = roots[clip.first : clip.stop]
            wanted = min(sum(rest[clip.first : clip.stop]), sum(own))
            if self.paper_exact:
                share = wanted / max(sum(own), 1)  # as a float: 170 * (22 / 170) is above 22
                clusters += [math.ceil(count * share) for count in own]
            else:
                clusters += spread(wanted, own)
        return clusters


def _within(values: Tensor, clip: Clip) -> Tensor:
    return values[clip.first : clip.stop]


def _cluster_frames(
    values: Tensor, sizes: Tensor, chosen: Tensor, clusters: Sequence[int], neighbours: int
) -> tuple[Tensor, Tensor, Tensor, dict[int, Tensor]]:
    """The chosen tokens of every frame in that many clusters: means [K, D], centres' indices into all F * n, masses,
    and for frames with clusters the one of each chosen token.

    values: [F, n, D]. sizes: [F, n], how many tokens each stands for. chosen: bool [F, n], at least as many as
    `clusters` [F].
    """
    means, places, masses = [values[:0, 0]], [chosen.new_empty(0, dtype=torch.long)], [sizes[:0, 0]]
    clusters_of: dict[int, Tensor] = {}
    for frame, count in enumerate(clusters):
        if count == 0:
            continue
        cells = chosen[frame].nonzero()[:, 0]
        centres, nearest = _nearest_peaks(values[frame, cells], count, neighbours)
        belongs = (nearest[:, None] == torch.arange(count, device=values.device)).to(values.dtype)
        means.append(belongs.mT @ values[frame, cells] / belongs.sum(0)[:, None])
        places.append(frame * values.shape[1] + cells[centres])
        masses.append(belongs.mT @ sizes[frame, cells])
        clusters_of[frame] = nearest
    return torch.cat(means), torch.cat(places), torch.cat(masses), clusters_of


def _nearest_peaks(values: Tensor, clusters: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Density peaks int64 [K] of values [m, D], ascending, and which peak each token belongs to, 0 .. K - 1: [m].

    That is the nearest one, and a peak's own cluster is its own.
    """
    peaks = density_peaks(values[None], clusters, min(neighbours, clusters))[0].sort().values
    nearest = torch.cdist(values, values[peaks], compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    nearest[peaks] = torch.arange(clusters, device=values.device)
    return peaks, nearest


def _clustered_trees(
    parent: Tensor, linked: Tensor, chosen: Tensor, nearest: dict[int, Tensor], *, children_count_once: bool
) -> Shares:
    """What `_cluster_frames` makes of `merge_trees`: parent, linked and chosen [F, n]; for each frame, nearest [m]."""
    roots = tree_roots(parent, linked)
    cluster, first = torch.full_like(roots, -1), 0
    for frame, peak in nearest.items():
        cluster[frame, chosen[frame]] = first + peak
        first += int(peak.max()) + 1
    weights = _published_weights(parent, linked, roots) if children_count_once else None
    return Shares.of(torch.arange(roots.numel())).merged(roots).merged(cluster, weights)


def _published_weights(parent: Tensor, linked: Tensor, roots: Tensor) -> Tensor:
    """By what trees' means are multiplied where the root's children are all that counts, [F * n]."""
    before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
    children = (before + parent)[linked].bincount(minlength=parent.numel())
    return roots.flatten().bincount(minlength=parent.numel()) / (1 + children)


# Tokens as unlike each other as possible, chosen one by one (greedy max-min).

__all__ = ["max_min_picks"]


def max_min_picks(distances: Tensor, count: int, *, repeats: bool = False) -> Tensor:
    """The first `count` picks int64 [B, count] from distances [B, m, m], in the order in which they are made.

    Column j holds the distances of token j to all, which need not be symmetric or positive. The first pick has the
    greatest distance to its nearest other token (the second least entry of its column); each next one the greatest
    distance to the nearest of those picked. Picks are distinct unless `repeats` lets a token be picked again. Of equal
    ones the lower index.

    Raises:
        ValueError: count is not in 0 .. m.
    """
    batch, tokens = distances.shape[:2]
    if not 0 <= count <= tokens:
        raise ValueError(f"count: expected 0 to {tokens}, got {count}")
    if count == 0:
        return torch.empty(batch, 0, dtype=torch.long, device=distances.device)
    rows = torch.arange(batch, device=distances.device)
    pick = distances.kthvalue(min(2, tokens), dim=1).values.argmax(-1)
    picks, nearest = [pick], distances[rows, pick]
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(count - 1):
        taken[rows, pick] = not repeats
        pick = nearest.masked_fill(taken, -torch.inf).argmax(-1)
        picks.append(pick)
        nearest = torch.minimum(nearest, distances[rows, pick])
    return torch.stack(picks, 1)


# Trees of similar tokens: each token may point to one of the frame before, and a tree becomes one
# token.

__all__ = ["merge_trees", "nearest_before", "tree_roots"]


def nearest_before(features: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """For each token of features [F, n, D] the most similar one (cosine) of the frame before: similarity [F, n] and
    its index int64 [F, n].

    Only tokens in `free`, bool [F, n], have one and are one; the similarity of others, and of the first frame's, is
    -inf. Of equal ones the lower index.
    """
    unit = functional.normalize(features, dim=-1)
    similarity = (unit[1:] @ unit[:-1].mT).masked_fill(~free[:-1, None], -torch.inf)
    best, parent = similarity.max(-1)
    best = best.masked_fill(~free[1:], -torch.inf)
    return functional.pad(best, (0, 0, 1, 0), value=-torch.inf), functional.pad(parent, (0, 0, 1, 0))


def merge_trees(
    values: Tensor, parent: Tensor, linked: Tensor, *, children_count_once: bool = False
) -> tuple[Tensor, Tensor]:
    """Values [F, n, D] in which every token without a link is the mean of its tree, and tree sizes [F, n].

    parent: int64 [F, n], a token's parent in the frame before; linked: bool [F, n], whether it has one. What a linked
    token is left with has no meaning. With `children_count_once` the sum over a tree is divided by 1 + the number of
    the root's children, whatever the size of their own trees, as the program of FlashVID does.
    """
    sums, sizes = values.clone(), torch.ones_like(values[..., 0])
    divisors = sizes.clone()
    places = torch.arange(values.shape[1], device=values.device)
    for frame in range(len(values) - 1, 0, -1):
        # A product, as scattered sums differ from run to run on CUDA devices.
        joins = ((parent[frame] == places[:, None]) & linked[frame]).to(values.dtype)
        sums[frame - 1] += joins @ sums[frame]
        sizes[frame - 1] += joins @ sizes[frame]
        divisors[frame - 1] += joins.sum(-1)
    return sums / (divisors if children_count_once else sizes)[..., None], sizes


def tree_roots(parent: Tensor, linked: Tensor) -> Tensor:
    """The token without a link that each is part of, as in `merge_trees`: indices into all F * n, int64 [F, n]."""
    roots = torch.arange(parent.numel(), device=parent.device).view_as(parent)
    for frame in range(1, len(roots)):
        roots[frame] = torch.where(linked[frame], roots[frame - 1, parent[frame]], roots[frame])
    return roots
