"""FlashVID (arXiv 2602.08024), its part before the language model: ADTS and TSTM.

ADTS selects tokens by attention and diversity, TSTM merges trees of similar tokens over time. The
published method keeps a quarter more than the ratio here and prunes the excess inside the language
model; here the ratio is the share that enters the language model (docs/methods.md).
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
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import chosen, joined, merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, SourceWeights, TokenBudget, VisualTokens

__all__ = ["FlashVid", "max_min_picks", "merge_trees", "nearest_before", "tree_roots"]


@dataclass(frozen=True)
class FlashVid(CheckedSettings):
    """Keep diverse tokens of each frame (ADTS), and merge the rest over time and in frames (TSTM).

    The budget is exact. Frames have equal shares, of which ceil(diverse_share * share) tokens are
    diverse. The rest of a segment's share is spread over its frames in proportion to the number of
    trees with their root there. If there are too many links between tokens, only the most similar
    ones hold, so that a segment has enough trees.

    With `paper_exact`, counts are computed in floating point. A tree is divided by 1 + the number
    of its root's children. A segment of one frame clusters its diverse tokens as well, so cells
    repeat. Diverse tokens may repeat.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2602.08024, ICLR 2026",
        remark="diverse attended tokens; the rest is merged over time, then within frames; see --inner flashvid",
    )
    # The published saliency is a mean over queries, this one a sum; a factor changes no choice.
    needs: ClassVar = Needs(saliency_layers=(-1,))

    segments: int = setting(
        8, "A segment ends after each of the `segments` - 1 least similar pairs of consecutive frames.", least=1
    )
    threshold: float = setting(
        0.9, "A segment also ends after each pair of frames with a cosine similarity below this.", least=-1, most=1
    )
    diverse_share: float = setting(0.7, "Share of a frame's tokens that is selected for diversity.", least=0, most=1)
    link_similarity: float = setting(
        0.8,
        "A token is merged into its most similar token of the previous frame if their cosine similarity is above this.",
        least=-1,
        most=1,
    )
    neighbors: int = setting(7, "Nearest tokens that define a density, the token itself included.", least=1)
    expansion: float = setting(1.25, "With `paper_exact`: how many times the ratio is kept.", least=1, below=math.inf)
    paper_exact: bool = setting(False, "Every frame has ceil(n * ratio * expansion) tokens, as published.")

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, about `expansion` times as many.

        Raises:
            BudgetError: If nothing would be kept.
        """
        features = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = features.shape
        check_budget(tokens, budget)
        # 1. Segments of similar frames, and the share of every frame.
        values = features.to(working_dtype(features))
        clips = dynamic_clips(values.mean(1), self.segments, self.threshold)
        if budget >= frames * per_frame:
            return keep_subset(tokens, torch.arange(frames * per_frame), clips)
        shares = self._shares(budget, frames, per_frame)
        # 2. ADTS: diverse tokens of every frame.
        diverse_counts = [math.ceil(self.diverse_share * share) for share in shares]
        diverse = self._diverse(values, pooled_saliency(tokens, -1), diverse_counts, clips)
        # 3. TSTM over time: the other tokens link to similar ones of the previous frame, and each
        # tree becomes the mean of its tokens.
        free = torch.ones(frames, per_frame, dtype=torch.bool, device=diverse.device)
        free.view(-1)[diverse] = False
        similarity, parent = nearest_before(values, free)
        linked = self._linked(similarity, shares, clips)
        trees, sizes = merge_trees(values, parent, linked, children_count_once=self.paper_exact)
        # 4. TSTM in space: the trees of every frame form clusters around density peaks.
        roots = self._roots(free & ~linked, clips)
        rest = [share - count for share, count in zip(shares, diverse_counts, strict=True)]
        clusters = self._clusters(rest, roots.sum(1).tolist(), clips)
        merged, merged_index, mass, nearest = _cluster_frames(trees, sizes, roots, clusters, self.neighbors)
        # 5. Diverse and merged tokens together, in raster order.
        index, order = torch.cat([diverse, merged_index]).sort(stable=True)
        sources = None
        if tokens.traced:
            clustered = _clustered_trees(parent, linked, roots, nearest, children_count_once=self.paper_exact)
            sources = chosen(joined([unchanged(diverse), clustered]), order)
        return kept_tokens(
            tokens,
            torch.cat([features.reshape(-1, width)[diverse], merged.to(features.dtype)])[order],
            index,
            mass=torch.cat([mass.new_ones(len(diverse)), mass])[order],
            clips=clips,
            facts={"diverse_tokens": len(diverse), "merged_tokens": len(merged_index)},
            sources=sources,
        )

    def _shares(self, budget: int, frames: int, per_frame: int) -> tuple[int, ...]:
        """Return the number of tokens of every frame, before a segment spreads its own."""
        # Published: all frames have the same share, rounded up.
        if self.paper_exact:
            ratio = TokenBudget.ratio_of(budget, frames * per_frame)
            return (min(math.ceil(per_frame * ratio * self.expansion), per_frame),) * frames
        return even_shares(budget, frames)

    def _diverse(self, values: Tensor, attention: Tensor, counts: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """Return the `counts` [F] diverse tokens of every frame: ascending indices into all F * n.

        The distance to token j is 1 - cosine similarity, times the attention received by j, times
        the dot product of j with the mean of its segment (ADTS, version 2).
        """
        unit = functional.normalize(values, dim=-1)
        relevance = [_within(values, clip) @ _within(values, clip).mean((0, 1)) for clip in clips]
        # Both factors belong to the token of a column, so distances are not symmetric.
        weights = attention.to(values.dtype) * torch.cat(relevance)
        distances = (1 - unit @ unit.mT) * weights[:, None, :]
        distances.diagonal(dim1=1, dim2=2).zero_()
        picks = max_min_picks(distances, max(counts), repeats=self.paper_exact)
        first = torch.arange(len(values), device=picks.device)[:, None] * values.shape[1]
        # All frames make as many picks as the greatest count; the first picks are taken.
        wanted = torch.arange(picks.shape[1], device=picks.device) < torch.tensor(counts, device=picks.device)[:, None]
        return (first + picks)[wanted].sort().values

    def _linked(self, similarity: Tensor, shares: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """Return which tokens are merged into one of the previous frame: bool [F, n].

        similarity: [F, n], to the most similar token of the previous frame. shares: [F]. In every
        segment, at least as many tokens as its share stay without a link.
        """
        linked = similarity > self.link_similarity
        for clip in clips:
            # Trees do not cross segments.
            linked[clip.first] = False
            own = _within(similarity, clip)[1:].flatten()
            room = len(clip) * similarity.shape[1] - sum(shares[clip.first : clip.stop])
            if _within(linked, clip).sum() <= room:
                continue
            # Too many links: only the most similar ones hold.
            ranked = own.sort(descending=True, stable=True)
            if self.paper_exact:
                # Published: a raised threshold, which drops all links that tie with it.
                held = own > (ranked.values[room - 1] if room else torch.inf)
            else:
                held = ranked.indices.argsort() < room
            linked[clip.first + 1 : clip.stop] = held.view(len(clip) - 1, -1)
        return linked

    def _roots(self, roots: Tensor, clips: Sequence[Clip]) -> Tensor:
        """Return the tokens to cluster, bool [F, n]: the roots of trees.

        With `paper_exact`, a segment of one frame clusters all of its tokens.
        """
        for clip in clips:
            roots[clip.first] |= self.paper_exact and len(clip) == 1
        return roots

    def _clusters(self, rest: Sequence[int], roots: Sequence[int], clips: Sequence[Clip]) -> list[int]:
        """Return how many clusters the roots of every frame form."""
        clusters: list[int] = []
        for clip in clips:
            own = roots[clip.first : clip.stop]
            wanted = min(sum(rest[clip.first : clip.stop]), sum(own))
            if self.paper_exact:
                # In floating point, as published: 170 * (22 / 170) is above 22.
                share = wanted / max(sum(own), 1)
                clusters += [math.ceil(count * share) for count in own]
            else:
                clusters += spread(wanted, own)
        return clusters


def _within(values: Tensor, clip: Clip) -> Tensor:
    """Return the frames of a clip."""
    return values[clip.first : clip.stop]


def max_min_picks(distances: Tensor, count: int, *, repeats: bool = False) -> Tensor:
    """Return the first `count` greedy max-min picks of ADTS in their order: int64 [B, count].

    Column j of distances [B, m, m] holds the distances of token j to all tokens. They need not be
    symmetric or positive. The first pick has the greatest distance to its nearest other token (the
    second smallest entry of its column). Each next pick has the greatest distance to the nearest
    earlier pick. Ties go to the lower index. Picks are distinct unless `repeats` is set.

    Raises:
        ValueError: If `count` is not in 0 .. m.
    """
    batch, tokens = distances.shape[:2]
    if not 0 <= count <= tokens:
        raise ValueError(f"count: expected 0 to {tokens}, got {count}")
    if count == 0:
        return torch.empty(batch, 0, dtype=torch.long, device=distances.device)
    # The smallest entry of a column is normally the token's distance to itself.
    rows = torch.arange(batch, device=distances.device)
    pick = distances.kthvalue(min(2, tokens), dim=1).values.argmax(-1)
    picks, nearest = [pick], distances[rows, pick]
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(count - 1):
        # One pick per step in every element of the batch.
        taken[rows, pick] = not repeats
        pick = nearest.masked_fill(taken, -torch.inf).argmax(-1)
        picks.append(pick)
        nearest = torch.minimum(nearest, distances[rows, pick])
    return torch.stack(picks, 1)


def nearest_before(features: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarity [F, n] to, and index of, the most similar token of the previous frame.

    features: [F, n, D]. Only tokens in `free`, bool [F, n], have such a token or can be one. Other
    tokens, and all of the first frame, have the similarity -inf. Similarity is the cosine; ties go
    to the lower index.
    """
    unit = functional.normalize(features, dim=-1)
    similarity = (unit[1:] @ unit[:-1].mT).masked_fill(~free[:-1, None], -torch.inf)
    # The first frame is padded: it has no previous frame.
    best, parent = similarity.max(-1)
    best = best.masked_fill(~free[1:], -torch.inf)
    return functional.pad(best, (0, 0, 1, 0), value=-torch.inf), functional.pad(parent, (0, 0, 1, 0))


def merge_trees(
    values: Tensor, parent: Tensor, linked: Tensor, *, children_count_once: bool = False
) -> tuple[Tensor, Tensor]:
    """Return values [F, n, D] in which every root is the mean of its tree, and tree sizes [F, n].

    A root is a token without a link. The values of linked tokens have no meaning afterwards.

    Args:
        values: [F, n, D].
        parent: int64 [F, n], the index of a token's parent in the previous frame.
        linked: bool [F, n], whether a token is merged into its parent.
        children_count_once: divide the sum of a tree by 1 + the number of its root's children, as
            the published program does, which ignores deeper levels.
    """
    sums, sizes = values.clone(), torch.ones_like(values[..., 0])
    divisors = sizes.clone()
    cells = torch.arange(values.shape[1], device=values.device)
    # From the last frame backwards, so that a token has absorbed its subtree before its parent
    # absorbs it.
    for frame in range(len(values) - 1, 0, -1):
        # A matrix product, because scattered sums differ from run to run on CUDA devices.
        joins = ((parent[frame] == cells[:, None]) & linked[frame]).to(values.dtype)
        sums[frame - 1] += joins @ sums[frame]
        sizes[frame - 1] += joins @ sizes[frame]
        divisors[frame - 1] += joins.sum(-1)
    return sums / (divisors if children_count_once else sizes)[..., None], sizes


def _cluster_frames(
    values: Tensor, sizes: Tensor, chosen: Tensor, clusters: Sequence[int], neighbors: int
) -> tuple[Tensor, Tensor, Tensor, dict[int, Tensor]]:
    """Return the clusters of every frame's chosen tokens: means, centers, masses and memberships.

    Means are [K, D], centers indices [K] into all F * n, masses [K]. Memberships map a frame with
    clusters to the cluster of each of its chosen tokens.

    Args:
        values: [F, n, D].
        sizes: [F, n], how many tokens each was merged from.
        chosen: bool [F, n], at least as many per frame as `clusters`.
        clusters: [F].
        neighbors: how many nearest tokens define a density.
    """
    means, indices, masses = [values[:0, 0]], [chosen.new_empty(0, dtype=torch.long)], [sizes[:0, 0]]
    clusters_of: dict[int, Tensor] = {}
    for frame, count in enumerate(clusters):
        if count == 0:
            continue
        cells = chosen[frame].nonzero()[:, 0]
        centers, nearest = _nearest_peaks(values[frame, cells], count, neighbors)
        is_member = (nearest[:, None] == torch.arange(count, device=values.device)).to(values.dtype)
        means.append(is_member.mT @ values[frame, cells] / is_member.sum(0)[:, None])
        indices.append(frame * values.shape[1] + cells[centers])
        masses.append(is_member.mT @ sizes[frame, cells])
        clusters_of[frame] = nearest
    return torch.cat(means), torch.cat(indices), torch.cat(masses), clusters_of


def _nearest_peaks(values: Tensor, clusters: int, neighbors: int) -> tuple[Tensor, Tensor]:
    """Return the density peaks int64 [K] of values [m, D], ascending, and nearest peaks [m].

    Nearest peaks are numbers 0 .. K - 1; every peak is its own nearest.
    """
    peaks = density_peaks(values[None], clusters, min(neighbors, clusters))[0].sort().values
    # Not in the matrix-product form, whose rounding would decide near-ties.
    nearest = torch.cdist(values, values[peaks], compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    nearest[peaks] = torch.arange(clusters, device=values.device)
    return peaks, nearest


def _clustered_trees(
    parent: Tensor, linked: Tensor, chosen: Tensor, nearest: dict[int, Tensor], *, children_count_once: bool
) -> SourceWeights:
    """Return what the clusters of `_cluster_frames` are made of, through trees of `merge_trees`.

    parent, linked, chosen: [F, n]. nearest: the memberships of `_cluster_frames`.
    """
    roots = tree_roots(parent, linked)
    # Clusters are numbered frame after frame, as `_cluster_frames` returns them.
    cluster, first = torch.full_like(roots, -1), 0
    for frame, peak in nearest.items():
        cluster[frame, chosen[frame]] = first + peak
        first += int(peak.max()) + 1
    weights = _published_weights(parent, linked, roots) if children_count_once else None
    return merged(merged(unchanged(torch.arange(roots.numel())), roots), cluster, weights)


def tree_roots(parent: Tensor, linked: Tensor) -> Tensor:
    """Return the root of every token's tree, as an index into all F * n: int64 [F, n].

    parent, linked: see `merge_trees`.
    """
    roots = torch.arange(parent.numel(), device=parent.device).view_as(parent)
    # From the first frame on, so that the root of a parent is known.
    for frame in range(1, len(roots)):
        roots[frame] = torch.where(linked[frame], roots[frame - 1, parent[frame]], roots[frame])
    return roots


def _published_weights(parent: Tensor, linked: Tensor, roots: Tensor) -> Tensor:
    """Return the factor [F * n] between the published mean of a tree and its true mean.

    It is the size of the tree divided by 1 + the number of its root's children.
    """
    # Indices of the parents into all F * n.
    before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
    children = (before + parent)[linked].bincount(minlength=parent.numel())
    return roots.flatten().bincount(minlength=parent.numel()) / (1 + children)
