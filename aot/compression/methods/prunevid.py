"""PruneVid (arXiv 2412.16117) before the language model: stage A."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import Part, joined_parts, whole_video
from aot.compression.ops.clips import CutClips
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.padding import batches, longest
from aot.compression.ops.peak_clusters import PeakClusters, nearest_centers
from aot.compression.ops.read_later import counted_later
from aot.compression.ops.redundancy import Quota, Redundancy, TokenSets, position_similarity, share_out
from aot.compression.ops.similarity import decision_dtype, working_dtype
from aot.compression.ops.source_weights import merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import CompressedTokens, Needs, SourceWeights, VisualTokens

__all__ = ["PruneVid", "alike_frame_clips", "settled_labels"]

_LEAST_CLUSTERED = 15  # with paper_exact, a set with fewer tokens is not clustered


@dataclass(frozen=True)
class PruneVid(CheckedSettings):
    """Average the static tokens of similar frames, and merge all tokens into cluster means.

    Frames are clustered into segments. A position is static if its mean cosine similarity over all
    pairs of frames of the segment is above `static_similarity`, else dynamic. The tokens at a
    static position become one token, their mean. The static tokens of a segment form one set, and
    so do the dynamic tokens of each frame. The tokens of each set are clustered around density
    peaks, and each cluster becomes its mean.

    The budget is exact. The number of clusters of a set is in proportion to the set's size (by
    largest remainder, at least 1 if possible), even if the set is small. If averaging leaves fewer
    tokens than the budget, the least similar static positions become dynamic as needed.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2412.16117, ACL Findings 2025",
        remark="means of clusters, with one token for what stays the same in similar frames; see --inner prunevid",
    )
    needs: ClassVar = Needs()

    frame_cluster_share: float = setting(0.25, "Clusters of frames per frame.", above=0, most=1)
    static_similarity: float = setting(
        0.8, "A position is static if its mean cosine similarity is above this.", least=-1, most=1
    )
    token_cluster_share: float = setting(
        0.5, "With `paper_exact`: clusters per token of a set, rounded down.", above=0, most=1
    )
    neighbors: int = setting(
        7, "Number of nearest tokens (or frames) that define a density, including itself.", least=1
    )
    paper_exact: bool = setting(
        False, "Use `token_cluster_share` whatever the budget is; a set of fewer than 15 tokens stays as it is."
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens; in each segment, static tokens precede dynamic tokens.

        Dynamic tokens are in order of frames, clusters by descending density peak score. A token
        has the cell of its cluster's center; a static token is in the first frame of its segment.

        Raises:
            BudgetError: If `budget` is 0, or if `paper_exact` would keep nothing.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        features = pool(tokens.features, tokens.grid, tokens.pool)
        features = features.to(working_dtype(features))
        # 1. Segments and their static positions.
        redundancy = self._segment(features)
        # 2. The number of clusters of every static set and every frame.
        if self.paper_exact:
            quotas = self._published_quotas(redundancy.capacity())
            budget = int(quotas.total)  # published counts depend on the content, and are read
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        # 3. The means of all clusters.
        clips, static = redundancy.clips, redundancy.capacity().static
        parts: list[Part] = []
        for frames in clips.batches():
            sets = TokenSets.static(features, redundancy, frames)
            parts += self._clustered(sets, quotas.static, budget, 0, traced=tokens.traced)
            # The counts of a segment's frames differ by 1 at most.
            for alike in batches(quotas.dynamic[frames]):
                sets = TokenSets.dynamic(
                    features, redundancy, slice(frames.start + alike.start, frames.start + alike.stop)
                )
                parts += self._clustered(sets, quotas.dynamic, budget, 1, traced=tokens.traced)
        facts = counted_later({"segments": clips.total, "static_positions": static.sum()})
        return joined_parts(tokens, parts, budget, clips, facts)

    def _segment(self, features: Tensor) -> Redundancy:
        """Return the segments and static positions of features [F, n, D]."""
        frames = len(features)
        # Density peaks need at least one cluster and at most F neighbors.
        clusters = max(int(self.frame_cluster_share * frames), 1)
        clips = alike_frame_clips(features.mean(1), clusters, min(self.neighbors, frames))
        return Redundancy.above(self.static_similarity, clips, position_similarity(features, clips))

    def _published_quotas(self, capacity: Quota) -> Quota:
        """Return the published cluster counts of sets of the sizes `capacity`."""

        def clusters(counts: Tensor) -> Tensor:
            shares = self.token_cluster_share * counts.to(decision_dtype(counts))
            return torch.where(counts < _LEAST_CLUSTERED, counts, shares.long())

        return Quota(clusters(capacity.static), clusters(capacity.dynamic))

    def _clustered(self, sets: TokenSets, quota: Tensor, budget: int, order: int, *, traced: bool) -> Iterator[Part]:
        """Yield the cluster means of all sets, if there are clusters.

        Args:
            sets: the tokens.
            quota: [F], the number of clusters of a set with this first frame.
            budget: the number of all kept tokens.
            order: 0 for static tokens, which come first in their frame; 1 for dynamic tokens.
            traced: whether to return sources.
        """
        counts, per_frame = sets.counts(quota), sets.per_frame
        most = longest(counts, min(budget, per_frame))
        if not most:
            return
        sizes = sets.valid.sum(1)
        # If there is nothing to merge, the tokens stay in their order.
        clusters = PeakClusters.build(
            sets.values, sets.valid, counts, most,
            neighbors=self.neighbors, most_neighbors=sizes, by_score=counts < sizes,
        )  # fmt: skip
        # A matrix product gives the same sums in every run.
        members = clusters.members(sets.values.dtype)
        count = members.sum(-1)
        means = members @ sets.values / count.clamp_min(1)[..., None]
        yield Part(
            means.flatten(0, 1),
            (sets.first[:, None] * per_frame + sets.cells.gather(1, clusters.centers)).flatten(),
            (count * sets.length[:, None]).flatten(),
            (2 * sets.first[:, None] + order).expand_as(count).flatten(),
            clusters.valid.flatten(),
            _sources(sets, clusters) if traced else None,
        )


def alike_frame_clips(embeddings: Tensor, clusters: int, neighbors: int) -> CutClips:
    """Return segments of similar frames, given an embedding of each frame: `embeddings` [F, E].

    Frames are clustered around `clusters` density peaks, and each frame is labeled with its
    cluster. Short runs of equal labels then join neighboring runs (`settled_labels`). Each
    resulting run is a segment, so a cluster may have several segments.

    Raises:
        ValueError: If `neighbors` is not in 1 .. F.
    """
    centers = density_peaks(embeddings[None], clusters, neighbors)
    labels = settled_labels(nearest_centers(embeddings[None], centers)[0])
    return CutClips(_run_starts(labels))


def settled_labels(labels: Tensor) -> Tensor:
    """Return the labels of frames after short runs of equal labels have joined neighboring runs.

    Each label keeps its longest run, or all longest runs if several are equally long; a run of one
    frame is never kept. The frames of all other runs are freed. From left to right, every freed
    frame takes the label of the longer neighboring run, or 0 if there is no such run. Ties go to
    the left run. A frame that joins a run makes this run longer, as in the published code.

    `labels` is int64 [F].
    """
    # 1. Free the frames that are not in a longest run of their label.
    frames = len(labels)
    length = CutClips(_run_starts(labels)).length
    is_longest = length == torch.where(labels[:, None] == labels, length, 0).amax(1)
    is_kept = is_longest & (length > 1)
    # 2. For each frame, the first kept run that does not end before it: its label, and its length.
    frame = torch.arange(frames, device=labels.device)
    following = torch.where(is_kept, frame, frames).flip(0).cummin(0).values.flip(0)
    label, limit = (torch.cat([each, each.new_zeros(1)])[following] for each in (labels, length))
    # 3. A freed frame joins the left run if this is as long as the limit; a kept frame never does.
    limit = torch.where(is_kept, frames + 1, limit)
    current, count = labels.new_zeros(()), labels.new_zeros(())
    settled = []
    for own, least in zip(label.unbind(), limit.unbind(), strict=True):
        joined = torch.where(count >= least, current, own)
        count = count * (joined == current) + 1
        current = joined
        settled.append(current)
    return torch.stack(settled)


def _run_starts(labels: Tensor) -> Tensor:
    """Return which frames have another label than the previous frame: bool [F]; frame 0 has."""
    changes = labels[1:] != labels[:-1]
    return torch.cat([torch.ones_like(labels[:1], dtype=torch.bool), changes])


def _sources(sets: TokenSets, clusters: PeakClusters) -> SourceWeights:
    """Return the sources of the clusters of all sets."""
    frame = torch.arange(len(sets.number), device=sets.first.device) + sets.first[0]
    indices = frame[:, None] * sets.per_frame + sets.cells[sets.number]
    return merged(unchanged(indices), clusters.numbers()[sets.number])
