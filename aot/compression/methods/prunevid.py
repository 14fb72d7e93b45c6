"""PruneVid before the language model: alike frames, what is static in them, and clusters of both kinds of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, groupby, takewhile
from typing import ClassVar

import torch
from torch import Tensor

from aot.compression.methods.subset import joined_parts, whole_video
from aot.compression.ops.density_peaks import density_peaks
from aot.compression.ops.grid import pool
from aot.compression.ops.peak_clusters import members_of, nearest_centres
from aot.compression.ops.redundancy import Quota, Redundancy, places_of, position_similarity, share_out
from aot.compression.ops.shares import Shares
from aot.compression.ops.similarity import working_dtype
from aot.config.strict import check
from aot.plugins import Card
from aot.types import Clip, CompressedTokens, Needs, VisualTokens

__all__ = ["PruneVid"]

_LEAST_CLUSTERED = 15  # a smaller set of tokens stays as it is


@dataclass(frozen=True)
class PruneVid:
    """Stage A of PruneVid: everything it does before the language model.

    Frames are clustered into segments; positions alike over a segment give one token, the mean. Static tokens of a
    segment and dynamic ones of a frame are merged into the means of clusters around density peaks.

    Exactly the budget: the share of clusters is solved for it, so every set of tokens, small ones too, gives clusters
    in proportion to its size (largest remainder, but one at least while it lasts). Where averaging alone leaves fewer
    tokens than the budget, the least alike positions become dynamic again, until it is enough.

    frame_cluster_share: clusters of frames per frame. static_similarity: mean cosine between a segment's frames above
    which a position is static. neighbours: tokens that make a density. paper_exact: clusters of tokens per token are
    `token_cluster_share`, rounded down, whatever the budget; a set of fewer than 15 stays as it is.
    """

    card: ClassVar = Card(
        "after pooling",
        "arXiv 2412.16117, ACL Findings 2025",
        remark="means of clusters, with one token for what stays the same in alike frames; see --inner prunevid",
    )
    needs: ClassVar = Needs()

    frame_cluster_share: float = 0.25
    static_similarity: float = 0.8
    token_cluster_share: float = 0.5
    neighbours: int = 7
    paper_exact: bool = False

    def __post_init__(self) -> None:
        frame_share, token_share = self.frame_cluster_share, self.token_cluster_share
        check(
            frame_cluster_share=(0 < frame_share <= 1, f"must be in (0, 1], got {frame_share}"),
            static_similarity=(-1 <= self.static_similarity <= 1, f"must be in [-1, 1], got {self.static_similarity}"),
            token_cluster_share=(0 < token_share <= 1, f"must be in (0, 1], got {token_share}"),
            neighbours=(self.neighbours >= 1, f"must be at least 1, got {self.neighbours}"),
        )

    def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
        """Segment by segment the static tokens, then the dynamic ones frame by frame; clusters best centre first.

        A token is at the place of its cluster's centre, a static one in the first frame of its segment.

        Raises:
            BudgetError: no token is asked for, or (paper_exact) none is left.
        """
        if (whole := whole_video(tokens, budget)) is not None:
            return whole
        features = pool(tokens.features, tokens.grid, tokens.pool)
        features = features.to(working_dtype(features))
        redundancy = self._segment(features)
        if self.paper_exact:
            quotas = tuple(self._published_quota(quota) for quota in redundancy.capacity())
        else:
            redundancy = redundancy.with_room_for(budget)
            quotas = share_out(budget, redundancy.capacity())
        facts = {"segments": len(redundancy.clips), "static_positions": sum(q.static for q in redundancy.capacity())}
        return joined_parts(tokens, self._emit(features, redundancy, quotas), redundancy.clips, facts)

    def _segment(self, features: Tensor) -> Redundancy:
        """Segments and static positions of features [F, n, D]."""
        frames = len(features)
        clusters = max(int(self.frame_cluster_share * frames), 1)
        clips = alike_frame_clips(features.mean(1), clusters, min(self.neighbours, frames))
        similarity = (position_similarity(features[clip.first : clip.stop]) for clip in clips)
        return Redundancy.above(self.static_similarity, clips, similarity)

    def _published_quota(self, capacity: Quota) -> Quota:
        def clusters(count: int) -> int:
            return count if count < _LEAST_CLUSTERED else int(self.token_cluster_share * count)

        return Quota(clusters(capacity.static), tuple(clusters(count) for count in capacity.dynamic))

    def _emit(
        self, features: Tensor, redundancy: Redundancy, quotas: Sequence[Quota]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Callable[[], Shares]]]:
        """Features, place and mass of each segment's static tokens, then of its frames' dynamic ones, and what works
        out what they are made of.
        """
        places = torch.arange(features.shape[0] * features.shape[1], device=features.device).view(features.shape[:2])
        for clip, static, quota in zip(redundancy.clips, redundancy.static, quotas, strict=True):
            same, different = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            means = features[clip.first : clip.stop, same].mean(0)
            values, place, mass, owner = self._clustered(means[None], places[clip.first, same][None], quota.static)
            yield values, place, mass * len(clip), partial(_shares, clip, same, places.shape[1], owner, quota.static)
            first = clip.first
            for clusters, alike in groupby(quota.dynamic):  # frames of a segment differ by one cluster at most
                stop = first + len(list(alike))
                own = places[first:stop, different]
                values, place, mass, owner = self._clustered(features[first:stop, different], own, clusters)
                run = Clip(first, stop)
                yield values, place, mass, partial(_shares, run, different, places.shape[1], owner, clusters)
                first = stop

    def _clustered(self, values: Tensor, place: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each set of values [B, m, D] as `clusters` means [B * clusters, D], with places of centres, and sizes; and
        which of its set's means each value is part of [B, m], [B, 0] without clusters.
        """
        count = values.shape[1]
        if clusters in (0, count):
            values, place = values[:, :clusters], place[:, :clusters]
            own = torch.arange(clusters, device=place.device).expand_as(place)
            return values.flatten(0, 1), place.flatten(), values.new_ones(place.numel()), own
        centres = density_peaks(values, clusters, min(self.neighbours, count))
        owner = nearest_centres(values, centres)
        members = members_of(owner, clusters, values.dtype)
        sizes = members.sum(-1)
        means = members @ values / sizes[..., None]
        return means.flatten(0, 1), place.gather(1, centres).flatten(), sizes.flatten(), owner


def _shares(run: Clip, where: Tensor, positions: int, owner: Tensor, clusters: int) -> Shares:
    """Positions `where` [m] of a run of frames in clusters: those of each frame by owner [W, m], or those of all by
    owner [1, m].
    """
    sets = torch.arange(len(owner), device=owner.device)[:, None] * clusters
    places = places_of(run, where[: owner.shape[1]], positions)
    return Shares.of(places).merged((owner + sets).expand_as(places))


# Segments of alike frames, from clusters of frames (PruneVid, arXiv 2412.16117).

__all__ = ["alike_frame_clips", "settled_labels"]


def alike_frame_clips(embeddings: Tensor, clusters: int, neighbours: int) -> tuple[Clip, ...]:
    """Runs of frames of one cluster, `clusters` of them at most: embeddings [F, E] around their density peaks, settled.

    Raises:
        ValueError: neighbours is not in 1 .. F.
    """
    centres = density_peaks(embeddings[None], clusters, neighbours)
    labels = nearest_centres(embeddings[None], centres)[0].tolist()
    return tuple(Clip(run.first, run.stop) for run in _runs(settled_labels(labels)))


def settled_labels(labels: Sequence[int]) -> list[int]:
    """Return labels of frames, each left with its longest run, or with all of them if several are equally long.

    A label that has only single frames is lost. From left to right, every freed frame takes the label of the longer run
    next to it (a tie goes to the left), or 0 where there is no run. A run counts the frames that have joined it so far,
    as in the published program.
    """
    runs = _runs(labels)
    longest = {label: max(run.length for run in runs if run.label == label) for label in labels}
    settled: list[int | None] = []
    for run in runs:
        settled += [run.label if run.length == longest[run.label] > 1 else None] * run.length
    for frame, label in enumerate(settled):
        if label is None:
            settled[frame] = _longer_neighbor(settled[:frame], settled[frame:])
    return [label for label in settled if label is not None]


def _longer_neighbor(before: Sequence[int | None], after: Sequence[int | None]) -> int:
    """Return the label of the longer run of the last one in `before` and the first one in `after`."""
    left, right = _first_run(before[::-1]), _first_run(list(dropwhile(lambda label: label is None, after)))
    return max((left, right), key=lambda run: run.length).label


def _first_run(labels: Sequence[int | None]) -> _Run:
    """Return the run that `labels` begin with; an empty one of label 0 where there are none."""
    same = list(takewhile(lambda label: label == labels[0], labels))
    return _Run(same[0] or 0, 0, len(same)) if same else _Run(0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Run:
    label: int
    first: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.first


def _runs(labels: Sequence[int]) -> list[_Run]:
    runs: list[_Run] = []
    for label, group in groupby(labels):
        first = runs[-1].stop if runs else 0
        runs.append(_Run(label, first, first + len(list(group))))
    return runs
