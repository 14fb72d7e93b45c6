"""Segments of alike frames, from clusters of frames (PruneVid, arXiv 2412.16117)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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
    """Labels of frames, each left with its longest run, or with all of them if several are equally long.

    A label that has only single frames is lost. Frames in between take the label of the longer run beside them, the
    earlier one's if they are equal, and 0 if there is no run at all.
    """
    runs = _runs(labels)
    longest = {label: max(run.length for run in runs if run.label == label) for label in labels}
    kept = [run for run in runs if run.length == longest[run.label] > 1]
    return [_label_at(frame, kept) for frame in range(len(labels))]


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


def _label_at(frame: int, kept: Sequence[_Run]) -> int:
    """The label of a frame among the runs that are kept, which do not overlap and are in order."""
    before = [run for run in kept if run.first <= frame][-1:]
    if before and frame < before[0].stop:
        return before[0].label
    beside = before + [run for run in kept if run.first > frame][:1]
    return max(beside, key=lambda run: run.length).label if beside else 0
