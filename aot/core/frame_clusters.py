"""Segments of alike frames, from clusters of frames (PruneVid, arXiv 2412.16117)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, groupby, takewhile

from torch import Tensor

from aot.core.density_peaks import density_peaks
from aot.core.peak_clusters import nearest_centres
from aot.types import Clip

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
