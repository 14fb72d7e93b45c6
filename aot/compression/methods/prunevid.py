"""PruneVid (arXiv 2412.16117), its part before the language model: stage A."""

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

_LEAST_CLUSTERED = 15  # with paper_exact, a smaller set of tokens stays as it is


@dataclass(frozen=True)
class PruneVid(CheckedSettings):
    """Average what stays the same in similar frames, and merge all tokens into cluster means.

    Frames are clustered into segments. A position with a high mean cosine similarity over the pairs
    of frames of a segment is static: it gives one token, the mean over the segment. The static
    tokens of a segment, and the dynamic tokens of each frame, are merged into the means of clusters
    around density peaks.

    The budget is exact: every set of tokens, also a small one, has clusters in proportion to its
    size (largest remainder, at least one if the budget allows). If averaging alone leaves fewer
    tokens than the budget, the least similar positions become dynamic again until there are enough.
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
    neighbors: int = setting(7, "Nearest tokens (or frames) that define a density, itself included.", least=1)
    paper_exact: bool = setting(
        False, "Use `token_cluster_share` whatever the budget is; a set of fewer than 15 tokens stays as it is."
    )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Keep exactly `budget` tokens, per segment static ones, then dynamic ones by frame.

        Clusters of a set are in order of descending score of their centers, where their tokens are;
        a static token is in the first frame of its segment.

        Raises:
            BudgetError: If the budget is 0, or if `paper_exact` would keep nothing.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        features = pool(tokens.features, tokens.grid, tokens.pool)
        features = features.to(working_dtype(features))
        # 1. Segments and their static positions.
        redundancy = self._segment(features)
        # 2. How many clusters every static set and every frame has.
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
        """Return the published numbers of clusters for a segment's sets of tokens."""

        def clusters(count: int) -> int:
            return count if count < _LEAST_CLUSTERED else int(self.token_cluster_share * count)

        return Quota(clusters(capacity.static), tuple(clusters(count) for count in capacity.dynamic))

    def _emit(
        self, features: Tensor, redundancy: Redundancy, quotas: Sequence[Quota], *, traced: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, SourceWeights | None]]:
        """Yield features, indices, masses and sources of static, then dynamic tokens, by segment.

        traced: whether to yield sources.
        """
        indices = torch.arange(features.shape[0] * features.shape[1], device=features.device).view(features.shape[:2])
        for clip, static, quota in zip(redundancy.clips, redundancy.static, quotas, strict=True):
            same, different = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            # Static positions: the means over the segment are one set.
            means = features[clip.first : clip.stop, same].mean(0)
            values, index, mass, owner = self._clustered(means[None], indices[clip.first, same][None], quota.static)
            sources = _sources(indices[clip.first : clip.stop, same], owner, quota.static) if traced else None
            yield values, index, mass * len(clip), sources
            first = clip.first
            # Dynamic positions: each frame is a set. Frames of a segment differ by one cluster at
            # most, so frames with equal counts are one batch.
            for clusters, equal in groupby(quota.dynamic):
                stop = first + len(list(equal))
                own = indices[first:stop, different]
                values, index, mass, owner = self._clustered(features[first:stop, different], own, clusters)
                yield values, index, mass, _sources(own, owner, clusters) if traced else None
                first = stop

    def _clustered(self, values: Tensor, index: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `clusters` means of each set of values [B, m, D], flattened to [B * clusters, D].

        With them the indices of the centers and the cluster sizes, both [B * clusters], and the
        cluster of each token [B, m] (empty if there are no clusters). index: [B, m], indices of the
        tokens.
        """
        count = values.shape[1]
        # Nothing to merge: all tokens stay, or none.
        if clusters in (0, count):
            values, index = values[:, :clusters], index[:, :clusters]
            own = torch.arange(clusters, device=index.device).expand_as(index)
            return values.flatten(0, 1), index.flatten(), values.new_ones(index.numel()), own
        centers = density_peaks(values, clusters, min(self.neighbors, count))
        owner = nearest_centers(values, centers)
        members = members_of(owner, clusters, values.dtype)
        sizes = members.sum(-1)
        # A matrix product: it gives the same sums at every run.
        means = members @ values / sizes[..., None]
        return means.flatten(0, 1), index.gather(1, centers).flatten(), sizes.flatten(), owner


def alike_frame_clips(embeddings: Tensor, clusters: int, neighbors: int) -> tuple[Clip, ...]:
    """Return segments of similar frames: embeddings [F, E] are clustered, then labels are settled.

    There are at most `clusters` different labels; a label may have several segments.

    Raises:
        ValueError: If `neighbors` is not in 1 .. F.
    """
    centers = density_peaks(embeddings[None], clusters, neighbors)
    labels = nearest_centers(embeddings[None], centers)[0].tolist()
    return tuple(Clip(run.first, run.stop) for run in _runs(settled_labels(labels)))


def settled_labels(labels: Sequence[int]) -> list[int]:
    """Return the labels of frames, each left with its longest run (or runs, if equally long).

    A label that has only single frames disappears. From left to right, every freed frame takes the
    label of the longer neighboring run; ties go to the left, and the label is 0 if there is no run.
    A run counts the frames that joined it so far, as in the published program.
    """
    runs = _runs(labels)
    # 1. Free the frames outside their label's longest runs.
    longest = {label: max(run.length for run in runs if run.label == label) for label in labels}
    settled: list[int | None] = []
    for run in runs:
        settled += [run.label if run.length == longest[run.label] > 1 else None] * run.length
    # 2. Freed frames join a neighboring run.
    for frame, label in enumerate(settled):
        if label is None:
            settled[frame] = _longer_neighbor(settled[:frame], settled[frame:])
    return [label for label in settled if label is not None]


def _longer_neighbor(before: Sequence[int | None], after: Sequence[int | None]) -> int:
    """Return the label of the longer run: the last one of `before` or the first one of `after`."""
    # Freed frames before the run on the right are skipped.
    left, right = _first_run(before[::-1]), _first_run(list(dropwhile(lambda label: label is None, after)))
    return max((left, right), key=lambda run: run.length).label


def _first_run(labels: Sequence[int | None]) -> _Run:
    """Return the run that `labels` begin with; without labels, an empty run of label 0."""
    same = list(takewhile(lambda label: label == labels[0], labels))
    return _Run(same[0] or 0, 0, len(same)) if same else _Run(0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Run:
    """Frames first .. stop - 1, which have the same label."""

    label: int
    first: int
    stop: int

    @property
    def length(self) -> int:
        """Return the number of frames."""
        return self.stop - self.first


def _runs(labels: Sequence[int]) -> list[_Run]:
    """Return the runs of equal labels, in order."""
    runs: list[_Run] = []
    for label, group in groupby(labels):
        first = runs[-1].stop if runs else 0
        runs.append(_Run(label, first, first + len(list(group))))
    return runs


def _sources(indices: Tensor, owner: Tensor, clusters: int) -> SourceWeights:
    """Return what clusters are made of.

    Args:
        indices: [W, m], the indices of their tokens in W frames.
        owner: [W, m], the cluster of each token, or [1, m] for means over the frames.
        clusters: the number of clusters of each set.
    """
    # Clusters are numbered set after set. Without clusters there are no owners.
    sets = torch.arange(len(owner), device=owner.device)[:, None] * clusters
    indices = indices[:, : owner.shape[1]]
    return merged(unchanged(indices), (owner + sets).expand_as(indices))
