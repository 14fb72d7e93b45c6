"""PruneVid (arXiv 2412.16117) before the language model: stage A."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, groupby, takewhile
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import joined_parts, whole_video
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.peak_clusters import members_of, nearest_centers
from aot.compression.ops.redundancy import Quota, Redundancy, position_similarity, share_out
from aot.compression.ops.similarity import working_dtype
from aot.compression.ops.source_weights import merged, unchanged
from aot.config.setting import CheckedSettings, setting
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, SourceWeights, VisualTokens

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
            quotas = tuple(self._published_quota(quota) for quota in redundancy.capacity())
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        # 3. The means of all clusters.
        facts = {"segments": len(redundancy.clips), "static_positions": sum(q.static for q in redundancy.capacity())}
        parts = self._emit(features, redundancy, quotas, traced=tokens.traced)
        return joined_parts(tokens, parts, redundancy.clips, facts)

    def _segment(self, features: Tensor) -> Redundancy:
        """Return the segments and static positions of features [F, n, D]."""
        frames = len(features)
        # Density peaks need at least one cluster and at most F neighbors.
        clusters = max(int(self.frame_cluster_share * frames), 1)
        clips = alike_frame_clips(features.mean(1), clusters, min(self.neighbors, frames))
        similarity = (position_similarity(features[clip.first : clip.stop]) for clip in clips)
        return Redundancy.above(self.static_similarity, clips, similarity)

    def _published_quota(self, capacity: Quota) -> Quota:
        """Return the published cluster counts of a segment's sets of the sizes `capacity`."""

        def clusters(count: int) -> int:
            return count if count < _LEAST_CLUSTERED else int(self.token_cluster_share * count)

        return Quota(clusters(capacity.static), tuple(clusters(count) for count in capacity.dynamic))

    def _emit(
        self, features: Tensor, redundancy: Redundancy, quotas: Sequence[Quota], *, traced: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, SourceWeights | None]]:
        """Yield the features, indices, masses and sources of the kept tokens, segment by segment.

        In each segment, static tokens come first. Sources are None unless `traced`.
        """
        indices = torch.arange(features.shape[0] * features.shape[1], device=features.device).view(features.shape[:2])
        for clip, static, quota in zip(redundancy.clips, redundancy.static, quotas, strict=True):
            same, different = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            # Static positions: the means over the segment form one set.
            means = features[clip.first : clip.stop, same].mean(0)
            values, index, mass, owner = self._clustered(means[None], indices[clip.first, same][None], quota.static)
            sources = _sources(indices[clip.first : clip.stop, same], owner, quota.static) if traced else None
            yield values, index, mass * len(clip), sources
            first = clip.first
            # Dynamic positions: each frame is a set. The counts of a segment's frames differ by 1
            # at most, so adjacent frames with equal counts form one batch.
            for clusters, equal in groupby(quota.dynamic):
                stop = first + len(list(equal))
                own = indices[first:stop, different]
                values, index, mass, owner = self._clustered(features[first:stop, different], own, clusters)
                yield values, index, mass, _sources(own, owner, clusters) if traced else None
                first = stop

    def _clustered(self, values: Tensor, index: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cluster each of the B sets of values [B, m, D] with token indices `index` [B, m].

        Returns:
            The cluster means [B * clusters, D]; the indices of the centers and the cluster sizes,
            both [B * clusters]; the cluster of each token [B, m]; [B, 0] if `clusters` is 0.
        """
        count = values.shape[1]
        # Nothing to merge: keep all tokens or none.
        if clusters in (0, count):
            values, index = values[:, :clusters], index[:, :clusters]
            own = torch.arange(clusters, device=index.device).expand_as(index)
            return values.flatten(0, 1), index.flatten(), values.new_ones(index.numel()), own
        centers = density_peaks(values, clusters, min(self.neighbors, count))
        owner = nearest_centers(values, centers)
        members = members_of(owner, clusters, values.dtype)
        sizes = members.sum(-1)
        # A matrix product gives the same sums in every run.
        means = members @ values / sizes[..., None]
        return means.flatten(0, 1), index.gather(1, centers).flatten(), sizes.flatten(), owner


def alike_frame_clips(embeddings: Tensor, clusters: int, neighbors: int) -> tuple[Clip, ...]:
    """Return segments of similar frames, given an embedding of each frame: `embeddings` [F, E].

    Frames are clustered around `clusters` density peaks, and each frame is labeled with its
    cluster. Short runs of equal labels then join neighboring runs (`settled_labels`). Each
    resulting run is a segment, so a cluster may have several segments.

    Raises:
        ValueError: If `neighbors` is not in 1 .. F.
    """
    centers = density_peaks(embeddings[None], clusters, neighbors)
    labels = nearest_centers(embeddings[None], centers)[0].tolist()
    return tuple(Clip(run.first, run.stop) for run in _runs(settled_labels(labels)))


def settled_labels(labels: Sequence[int]) -> list[int]:
    """Return the labels of frames after short runs of equal labels have joined neighboring runs.

    Each label keeps its longest run, or all longest runs if several are equally long; a run of one
    frame is never kept. The frames of all other runs are freed. From left to right, every freed
    frame takes the label of the longer neighboring run, or 0 if there is no such run. Ties go to
    the left run. A frame that joins a run makes this run longer, as in the published code.
    """
    runs = _runs(labels)
    # 1. Free the frames that are not in a longest run of their label.
    longest = {label: max(run.length for run in runs if run.label == label) for label in labels}
    settled: list[int | None] = []
    for run in runs:
        settled += [run.label if run.length == longest[run.label] > 1 else None] * run.length
    # 2. Let each freed frame join a neighboring run.
    for frame, label in enumerate(settled):
        if label is None:
            settled[frame] = _longer_neighbor(settled[:frame], settled[frame:])
    return [label for label in settled if label is not None]


def _longer_neighbor(before: Sequence[int | None], after: Sequence[int | None]) -> int:
    """Return the label of the longer run: the last run of `before` or the first run of `after`."""
    # Skip the freed frames before the run on the right.
    left, right = _first_run(before[::-1]), _first_run(list(dropwhile(lambda label: label is None, after)))
    return max((left, right), key=lambda run: run.length).label


def _first_run(labels: Sequence[int | None]) -> _Run:
    """Return the run at the start of `labels`; an empty run of label 0 if `labels` is empty."""
    same = list(takewhile(lambda label: label == labels[0], labels))
    return _Run(same[0] or 0, 0, len(same)) if same else _Run(0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Run:
    """Hold a run of frames with the same label: the frames `first` .. `stop` - 1."""

    label: int
    first: int
    stop: int

    @property
    def length(self) -> int:
        """Return the number of frames."""
        return self.stop - self.first


def _runs(labels: Sequence[int]) -> list[_Run]:
    """Return the runs of equal consecutive `labels`, from the first frame to the last."""
    runs: list[_Run] = []
    for label, group in groupby(labels):
        first = runs[-1].stop if runs else 0
        runs.append(_Run(label, first, first + len(list(group))))
    return runs


def _sources(indices: Tensor, owner: Tensor, clusters: int) -> SourceWeights:
    """Return the sources of the clusters of dynamic tokens in W frames or of one static set.

    Args:
        indices: [W, m], the token indices of m positions in W frames.
        owner: the cluster of each token: [W, m], or [1, m] if the tokens are means over W frames.
        clusters: the number of clusters of each set.
    """
    # Number the clusters set after set. Without clusters, `owner` is empty.
    sets = torch.arange(len(owner), device=owner.device)[:, None] * clusters
    indices = indices[:, : owner.shape[1]]
    return merged(unchanged(indices), (owner + sets).expand_as(indices))
