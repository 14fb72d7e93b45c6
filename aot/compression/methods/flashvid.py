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
from aot.compression.ops.budget import even_shares, spread_rows
from aot.compression.ops.clips import CutClips, dynamic_clips
from aot.compression.ops.grid import pool
from aot.compression.ops.group_means import group_sizes, group_sums
from aot.compression.ops.padding import batches, longest, packed, true_indices
from aot.compression.ops.peak_clusters import PeakClusters
from aot.compression.ops.products import take_rows
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.source_weights import chosen, joined, merged, unchanged
from aot.compression.ops.uploads import uploaded
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, SourceWeights, TokenBudget, VisualTokens

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
        is_diverse = torch.zeros(frames * per_frame, dtype=torch.bool, device=diverse.device)
        free = ~is_diverse.index_fill_(0, diverse, True).view(frames, per_frame)
        similarity, parent = nearest_before(values, free)
        linked = self._linked(similarity, uploaded(torch.tensor(shares), free.device), clips)
        trees, sizes = merge_trees(values, parent, linked, children_count_once=self.paper_exact)
        # 4. TSTM in space: the tree roots of every frame form clusters around density peaks.
        roots = self._roots(free & ~linked, clips)
        rest = [share - count for share, count in zip(shares, diverse_counts, strict=True)]
        clusters = self._clusters(uploaded(torch.tensor(rest), free.device), roots.sum(1), clips)
        # Published counts depend on the content, and are read.
        total = int(clusters.sum()) if self.paper_exact else sum(rest)
        merged = _cluster_frames(trees, sizes, roots, clusters, self.neighbors, total)
        # 5. Diverse and merged tokens together, in raster order.
        index, order = torch.cat([diverse, merged.index]).sort(stable=True)
        sources = None
        if tokens.traced:
            clustered = _clustered_trees(parent, linked, merged.owner, children_count_once=self.paper_exact)
            sources = chosen(joined([unchanged(diverse), clustered]), order)
        return kept_tokens(
            tokens,
            torch.cat([features.reshape(-1, width)[diverse], merged.means.to(features.dtype)])[order],
            index,
            mass=torch.cat([merged.masses.new_ones(len(diverse)), merged.masses])[order],
            clips=clips,
            facts={"diverse_tokens": len(diverse), "merged_tokens": total},
            sources=sources,
        )

    def _shares(self, budget: int, frames: int, per_frame: int) -> tuple[int, ...]:
        """Return the number of tokens of every frame, before segments redistribute them."""
        # Published: all frames have the same share, rounded up.
        if self.paper_exact:
            ratio = TokenBudget.ratio_of(budget, frames * per_frame)
            return (min(math.ceil(per_frame * ratio * self.expansion), per_frame),) * frames
        return even_shares(budget, frames)

    def _diverse(self, values: Tensor, attention: Tensor, counts: Sequence[int], clips: CutClips) -> Tensor:
        """Return ascending indices of the video's diverse tokens: counts[f] tokens of frame f.

        The distance of token j from token i is (1 - cosine similarity) * attention received by j *
        dot product of token j and the mean of its segment (ADTS, version 2).
        """
        unit = functional.normalize(values, dim=-1)
        # The mean of a segment is the mean over its frames.
        means = (clips.same.to(values.dtype) @ values.mean(1)) / clips.length[:, None]
        # The factors depend on the column's token only, so distances are not symmetric.
        weights = attention.to(values.dtype) * (values @ means[..., None])[..., 0]
        distances = (1 - unit @ unit.mT) * weights[:, None, :]
        distances.diagonal(dim1=1, dim2=2).zero_()
        picks = max_min_picks(distances, max(counts), repeats=self.paper_exact)
        first = torch.arange(len(values), device=picks.device)[:, None] * values.shape[1]
        # All frames make max(counts) picks; frame f uses the first counts[f] of them.
        wanted = (torch.arange(picks.shape[1]) < torch.tensor(counts)[:, None]).flatten().nonzero()[:, 0]
        return (first + picks).flatten()[uploaded(wanted, picks.device)].sort().values

    def _linked(self, similarity: Tensor, shares: Tensor, clips: CutClips) -> Tensor:
        """Return which tokens are merged into a token of the previous frame: bool [F, n].

        In every segment, at least as many tokens stay unmerged as the sum of the frames' `shares`
        [F]. `similarity` [F, n] is the similarity to the most similar token of the previous frame.
        """
        per_frame = similarity.shape[1]
        # Trees do not cross segments.
        similarity = similarity.masked_fill(clips.starts[:, None], -torch.inf)
        linked = similarity > self.link_similarity
        # 1. For each frame: the largest number of links in its segment, and if there are more.
        room = clips.length * per_frame - (clips.same * shares).sum(1)
        is_crowded = (clips.same * linked.sum(1)).sum(1) > room
        # 2. Rank the tokens of each segment by similarity. Only the most similar links are kept.
        number = clips.number[:, None].expand_as(similarity).flatten()
        order = similarity.flatten().sort(descending=True, stable=True).indices
        order = order[number[order].sort(stable=True).indices]
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        rank = rank.view_as(similarity) - clips.first[:, None] * per_frame
        held = rank < room[:, None]
        if self.paper_exact:
            # Published: raise the threshold, which drops all links that are equal to it.
            at_limit = torch.where(rank == room[:, None] - 1, similarity, -torch.inf).amax(1)
            limit = torch.where(clips.same, at_limit, -torch.inf).amax(1)
            held = similarity > torch.where(room > 0, limit, torch.inf)[:, None]
        return torch.where(is_crowded[:, None], held, linked)

    def _roots(self, roots: Tensor, clips: CutClips) -> Tensor:
        """Return which tokens are clustered, bool [F, n]: the tree `roots`.

        With `paper_exact`, all tokens of a segment of one frame are clustered, not only the roots.
        """
        return roots | (clips.length == 1)[:, None] if self.paper_exact else roots

    def _clusters(self, rest: Tensor, roots: Tensor, clips: CutClips) -> Tensor:
        """Return each frame's cluster count, int64 [F]: a part of its segment's `rest` [F].

        A frame has at most as many clusters as `roots` [F].
        """
        # Row c of the table: the roots of the frames of segment c.
        member = clips.number == torch.arange(len(roots), device=roots.device)[:, None]
        own = member * roots
        wanted = torch.minimum((member * rest).sum(1), own.sum(1))
        if not self.paper_exact:
            return spread_rows(wanted, own).sum(0)
        # In floating point, as published: 170 * (22 / 170) is above 22.
        share = wanted.to(decision_dtype(wanted)) / own.sum(1).clamp_min(1)
        return (roots * share[clips.number]).ceil().long()


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
    pick = distances.kthvalue(min(2, tokens), dim=1).values.argmax(-1, keepdim=True)
    picks = [pick]
    nearest = torch.full_like(distances[:, 0], torch.inf)
    for _ in range(count - 1):
        # One pick per step in every element of the batch. A token that is taken stays at -inf.
        nearest = torch.minimum(nearest, distances.take_along_dim(pick[..., None], 1)[:, 0])
        if not repeats:
            nearest = nearest.scatter_(1, pick, -torch.inf)
        pick = nearest.argmax(-1, keepdim=True)
        picks.append(pick)
    return torch.cat(picks, 1)


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
    per_frame = values.shape[1]
    roots = tree_roots(parent, linked).flatten()
    sums = group_sums(values.flatten(0, 1), roots, len(roots)).view_as(values)
    sizes = group_sizes(roots, len(roots)).view_as(parent)
    divisors = sizes
    if children_count_once:
        # Indices of the parents into all F * n; tokens that are not linked are counted apart.
        before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * per_frame
        above = torch.where(linked, before + parent, len(roots)).flatten()
        divisors = 1 + group_sizes(above, len(roots) + 1)[:-1].view_as(parent)
    return sums / divisors.clamp_min(1)[..., None], sizes.to(values.dtype)


@dataclass(frozen=True, slots=True)
class _Merged:
    """Hold the K clusters of all frames.

    Attributes:
        means: [K, D].
        index: int64 [K], the centers among F * n.
        masses: [K], the number of tokens in each cluster.
        owner: int64 [F, n], the cluster of each token that is clustered; -1 for other tokens.
    """

    means: Tensor
    index: Tensor
    masses: Tensor
    owner: Tensor


def _cluster_frames(
    values: Tensor, sizes: Tensor, chosen: Tensor, clusters: Tensor, neighbors: int, total: int
) -> _Merged:
    """Return the clusters of every frame's chosen tokens.

    Args:
        values: [F, n, D].
        sizes: [F, n], the number of tokens that each value was merged from.
        chosen: bool [F, n]; each frame f has at least clusters[f] chosen tokens.
        clusters: int64 [F], the number of clusters of each frame.
        neighbors: the number of nearest tokens that define a density.
        total: K, the sum of `clusters`.
    """
    frames, per_frame, _ = values.shape
    owner = torch.full_like(chosen, -1, dtype=torch.long)
    parts = [(values[0, :0], owner[0, :0], sizes[0, :0], chosen[0, :0])]
    for batch in batches(torch.arange(frames, device=values.device)):
        counts = clusters[batch]
        most = longest(counts, min(total, per_frame))
        if not most:
            continue
        # 1. The chosen tokens of each frame, in clusters around density peaks.
        cells, valid = packed(chosen[batch], per_frame)
        own = take_rows(values[batch], cells)
        found = PeakClusters.build(own, valid, counts, most, neighbors=neighbors, most_neighbors=counts)
        # 2. The mean and the mass of each cluster.
        members = found.members(values.dtype)
        means = members @ own / members.sum(-1, keepdim=True).clamp_min(1)
        masses = (members @ take_rows(sizes[batch][..., None], cells))[..., 0]
        first = torch.arange(frames, device=cells.device)[batch, None] * per_frame
        index = first + cells.gather(1, found.centers)
        parts.append((means.flatten(0, 1), index.flatten(), masses.flatten(), found.valid.flatten()))
        # 3. The clusters are numbered frame after frame.
        number, before = found.numbers(), clusters[: batch.start].sum()
        owner[batch] = owner[batch].scatter(1, cells, torch.where(number < 0, number, number + before))
    means, index, masses, valid = (torch.cat(each) for each in zip(*parts, strict=True))
    rows = true_indices(valid, total)
    return _Merged(means[rows], index[rows], masses[rows], owner)


def _clustered_trees(parent: Tensor, linked: Tensor, owner: Tensor, *, children_count_once: bool) -> SourceWeights:
    """Return the sources of the clusters into which trees are merged.

    `parent`, `linked` and `children_count_once` define the trees, as in `merge_trees`. `owner`
    [F, n] is the cluster of each token that is clustered, else -1.
    """
    roots = tree_roots(parent, linked)
    weights = _published_weights(parent, linked, roots) if children_count_once else None
    return merged(merged(unchanged(torch.arange(roots.numel())), roots), owner, weights)


def tree_roots(parent: Tensor, linked: Tensor) -> Tensor:
    """Return the index, 0 .. F * n - 1, of the root of every token's tree: int64 [F, n].

    `parent` and `linked`, both [F, n], have the same meaning as in `merge_trees`.
    """
    own = torch.arange(parent.numel(), device=parent.device).view_as(parent)
    before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
    roots = torch.where(linked, before + parent, own).flatten()
    # Each step doubles the distance from a token to the ancestor that is known.
    for _ in range((len(parent) - 1).bit_length()):
        roots = roots[roots]
    return roots.view_as(parent)


def _published_weights(parent: Tensor, linked: Tensor, roots: Tensor) -> Tensor:
    """Return the published mean of each root's tree divided by the tree's true mean: [F * n].

    The factor is the number of tokens in the tree / (1 + the number of children of the root).
    """
    # Indices of the parents into all F * n.
    before = torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
    children = (before + parent)[linked].bincount(minlength=parent.numel())
    return roots.flatten().bincount(minlength=parent.numel()) / (1 + children)
