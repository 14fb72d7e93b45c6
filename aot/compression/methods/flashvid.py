"""FlashVID (arXiv 2602.08024) before the language model: ADTS and TSTM.

ADTS selects tokens by attention and diversity; TSTM merges trees of similar tokens over time. In
the published method, 1.25 times the ratio enters the language model, which prunes the excess. Here
the ratio is the share of tokens that enters the language model (docs/methods.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from aot.compression.methods.subset import check_budget, keep_all, kept_tokens, pooled_saliency
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

    The budget is exact, and all frames have equal shares. In each frame, ceil(diverse_share *
    share) tokens are diverse. Other tokens are linked to similar tokens of the previous frame;
    linked tokens form a tree, which becomes one token at its root, the first token. The roots of
    each frame are clustered; the clusters of a segment are spread over its frames in proportion to
    the number of roots. If too few tokens would be left, only the most similar links are used.

    With `paper_exact`, counts are computed in floating point. The sum of a tree is divided by 1 +
    the number of children of the root. In a segment of one frame, diverse tokens are also
    clustered, so two tokens may have the same cell. A diverse token may be kept several times.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2602.08024, ICLR 2026",
        remark="diverse attended tokens; the rest is merged over time, then within frames; see --inner flashvid",
    )
    # The published saliency is a mean over queries; here it is a sum. The factor has no effect.
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
    neighbors: int = setting(7, "Number of nearest tokens that define a density, including the token itself.", least=1)
    expansion: float = setting(1.25, "With `paper_exact`: how many times the ratio is kept.", least=1, below=math.inf)
    paper_exact: bool = setting(False, "Every frame has ceil(n * ratio * expansion) tokens, as published.")

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; with `paper_exact`, about `expansion` times `budget`.

        Raises:
            BudgetError: If `budget` is 0.
        """
        features = pool(tokens.features, tokens.grid, tokens.pool)
        frames, per_frame, width = features.shape
        check_budget(tokens, budget)
        # 1. Segments of similar frames, and the number of tokens of every frame.
        values = features.to(working_dtype(features))
        clips = dynamic_clips(values.mean(1), self.segments, self.threshold)
        if budget >= frames * per_frame:
            return keep_all(tokens, clips)
        shares = self._shares(budget, frames, per_frame)
        # 2. ADTS: diverse tokens of every frame.
        diverse_counts = [math.ceil(self.diverse_share * share) for share in shares]
        diverse = self._diverse(values, pooled_saliency(tokens, -1), diverse_counts, clips)
        # 3. TSTM over time: the other tokens link to similar tokens of the previous frame. Each
        # tree of linked tokens becomes the mean of its tokens.
        free = torch.ones(frames, per_frame, dtype=torch.bool, device=diverse.device)
        free.view(-1)[diverse] = False
        similarity, parent = nearest_before(values, free)
        linked = self._linked(similarity, shares, clips)
        trees, sizes = merge_trees(values, parent, linked, children_count_once=self.paper_exact)
        # 4. TSTM in space: the tree roots of every frame form clusters around density peaks.
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
        """Return the number of tokens of every frame, before segments redistribute them."""
        # Published: all frames have the same share, rounded up.
        if self.paper_exact:
            ratio = TokenBudget.ratio_of(budget, frames * per_frame)
            return (min(math.ceil(per_frame * ratio * self.expansion), per_frame),) * frames
        return even_shares(budget, frames)

    def _diverse(self, values: Tensor, attention: Tensor, counts: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """Return ascending indices of the video's diverse tokens: counts[f] tokens of frame f.

        The distance of token j from token i is (1 - cosine similarity) * attention received by j *
        dot product of token j and the mean of its segment (ADTS, version 2).
        """
        unit = functional.normalize(values, dim=-1)
        relevance = [_within(values, clip) @ _within(values, clip).mean((0, 1)) for clip in clips]
        # The factors depend on the column's token only, so distances are not symmetric.
        weights = attention.to(values.dtype) * torch.cat(relevance)
        distances = (1 - unit @ unit.mT) * weights[:, None, :]
        distances.diagonal(dim1=1, dim2=2).zero_()
        picks = max_min_picks(distances, max(counts), repeats=self.paper_exact)
        first = torch.arange(len(values), device=picks.device)[:, None] * values.shape[1]
        # All frames make max(counts) picks; frame f uses the first counts[f] of them.
        wanted = torch.arange(picks.shape[1], device=picks.device) < torch.tensor(counts, device=picks.device)[:, None]
        return (first + picks)[wanted].sort().values

    def _linked(self, similarity: Tensor, shares: Sequence[int], clips: Sequence[Clip]) -> Tensor:
        """Return which tokens are merged into a token of the previous frame: bool [F, n].

        In every segment, at least as many tokens stay unmerged as the sum of the frames' `shares`.
        `similarity` [F, n] is the similarity to the most similar token of the previous frame.
        """
        linked = similarity > self.link_similarity
        for clip in clips:
            # Trees do not cross segments.
            linked[clip.first] = False
            own = _within(similarity, clip)[1:].flatten()
            room = len(clip) * similarity.shape[1] - sum(shares[clip.first : clip.stop])
            if _within(linked, clip).sum() <= room:
                continue
            # Too many links: keep only the most similar links.
            ranked = own.sort(descending=True, stable=True)
            if self.paper_exact:
                # Published: raise the threshold, which drops all links that are equal to it.
                held = own > (ranked.values[room - 1] if room else torch.inf)
            else:
                held = ranked.indices.argsort() < room
            linked[clip.first + 1 : clip.stop] = held.view(len(clip) - 1, -1)
        return linked

    def _roots(self, roots: Tensor, clips: Sequence[Clip]) -> Tensor:
        """Return which tokens are clustered, bool [F, n]: the tree `roots`, changed in place.

        With `paper_exact`, all tokens of a segment of one frame are clustered, not only the roots.
        """
        for clip in clips:
            roots[clip.first] |= self.paper_exact and len(clip) == 1
        return roots

    def _clusters(self, rest: Sequence[int], roots: Sequence[int], clips: Sequence[Clip]) -> list[int]:
        """Return each frame's cluster count, part of its segment's `rest`; at most its `roots`."""
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
    """Return the part of `values` in the frames of `clip`."""
    return values[clip.first : clip.stop]


def max_min_picks(distances: Tensor, count: int, *, repeats: bool = False) -> Tensor:
    """Pick `count` distant tokens (ADTS); return their indices in picking order: int64 [B, count].

    Column j of `distances` [B, m, m] holds the distances of token j from all tokens. Distances need
    not be symmetric or positive. The first pick has the largest distance to its nearest other token
    (the second smallest entry of its column). Each further pick has the largest distance to the
    nearest earlier pick. Ties go to the lower index. Picks are distinct unless `repeats` is true.

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
    """Return each token's most similar token in the previous frame: similarity and index, [F, n].

    Similarity is the cosine similarity of `features` [F, n, D]; ties go to the lower index. Only
    tokens in `free`, bool [F, n], are compared. All other tokens, and all tokens of the first
    frame, have similarity -inf.
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
    """Return the mean of each root's tree [F, n, D] and the number of tokens in the tree [F, n].

    A root is a token that is not linked. Its tree is the root and all tokens that are merged into
    it directly or through other tokens. The results for linked tokens have no meaning.

    Args:
        values: [F, n, D].
        parent: int64 [F, n], the index of a token's parent in the previous frame.
        linked: bool [F, n], whether a token is merged into its parent.
        children_count_once: whether to divide the sum of a tree by 1 + the number of children of
            the root, as in the published code, which does not count deeper levels.
    """
    sums, sizes = values.clone(), torch.ones_like(values[..., 0])
    divisors = sizes.clone()
    cells = torch.arange(values.shape[1], device=values.device)
    # From the last frame backwards: a token absorbs its subtree before its parent absorbs the
    # token.
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

    Means are [K, D], centers are indices [K] among F * n, masses are [K]. Memberships map each
    frame with clusters to the cluster index of each chosen token in this frame.

    Args:
        values: [F, n, D].
        sizes: [F, n], the number of tokens that each value was merged from.
        chosen: bool [F, n]; each frame f has at least clusters[f] chosen tokens.
        clusters: [F], the number of clusters of each frame.
        neighbors: the number of nearest tokens that define a density.
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
    """Return the density peaks of values [m, D], ascending, and the nearest peak of each value.

    Peaks are int64 [K]; nearest peaks [m] are indices into the peaks. A peak is nearest to itself.
    """
    peaks = density_peaks(values[None], clusters, min(neighbors, clusters))[0].sort().values
    # Not as a matrix product, whose rounding errors would decide near-ties.
    nearest = torch.cdist(values, values[peaks], compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    nearest[peaks] = torch.arange(clusters, device=values.device)
    return peaks, nearest


def _clustered_trees(
    parent: Tensor, linked: Tensor, chosen: Tensor, nearest: dict[int, Tensor], *, children_count_once: bool
) -> SourceWeights:
    """Return the sources of the clusters into which trees are merged.

    `parent`, `linked` and `children_count_once` define the trees, as in `merge_trees`. The tokens
    `chosen`, bool [F, n], are clustered; `nearest` maps each frame to their cluster indices.
    """
    roots = tree_roots(parent, linked)
    # Number the clusters frame after frame, as `_cluster_frames` does.
    cluster, first = torch.full_like(roots, -1), 0
    for frame, peak in nearest.items():
        cluster[frame, chosen[frame]] = first + peak
        first += int(peak.max()) + 1
    weights = _published_weights(parent, linked, roots) if children_count_once else None
    return merged(merged(unchanged(torch.arange(roots.numel())), roots), cluster, weights)


def tree_roots(parent: Tensor, linked: Tensor) -> Tensor:
    """Return the index, 0 .. F * n - 1, of the root of every token's tree: int64 [F, n].

    `parent` and `linked`, both [F, n], have the same meaning as in `merge_trees`.
    """
    roots = torch.arange(parent.numel(), device=parent.device).view_as(parent)
    # In time order: the root of each parent is already known.
    for frame in range(1, len(roots)):
        roots[frame] = torch.where(linked[frame], roots[frame - 1, parent[frame]], roots[frame])
    return roots


def _published_weights(parent: Tensor, linked: Tensor, roots: Tensor) -> Tensor:
    """Return the published mean of each root's tree divided by the tree's true mean: [F * n].

    The factor is the number of tokens in the tree / (1 + the number of children of the root).
    """
    # Indices of the parents into all F * n.
    before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
    children = (before + parent)[linked].bincount(minlength=parent.numel())
    return roots.flatten().bincount(minlength=parent.numel()) / (1 + children)
