"""Measure what the search asks for, on videos that are encoded once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aot.config.schema import Config
from aot.errors import AOTError, ConfigError
from aot.evaluation.answering import Task, answer_video
from aot.evaluation.conditions import Condition, build_conditions
from aot.evaluation.dataset import Item, by_video
from aot.evaluation.fidelity import Reference
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered
from aot.evaluation.reference import full_pipeline
from aot.evaluation.run import describe_run
from aot.models import VideoModel
from aot.pipeline.frame_selection import check_questions
from aot.pipeline.recording import Recordings
from aot.pipeline.run import REFUSALS, Pipeline
from aot.runtime.atomic_writes import make_folder
from aot.runtime.folder_lock import locked
from aot.tuning.losses import Losses
from aot.tuning.search import Search, Wanted
from aot.tuning.verdict import ALL, Tuned, WorstVideo, choose, closest, verdict, worst_videos
from aot.types import Needs
from aot.video import VideoFile

__all__ = ["Goal", "tune"]

Progress = Callable[[int, float], None]  # (done, about how many in total), in videos times conditions


@dataclass(frozen=True, slots=True)
class Goal:
    """The loss that is allowed.

    Attributes:
        by: "accuracy" needs right answers; its loss is the accuracy with all tokens minus that with
            the kept tokens, in points. "divergence" is from the predictions with all tokens, in
            nats (`aot.evaluation.fidelity`).
        limit: the largest mean loss over all questions.
    """

    by: Literal["accuracy", "divergence"]
    limit: float


def tune(
    items: Sequence[Item],
    videos: Mapping[Path, VideoFile],
    model: VideoModel,
    config: Config,
    goal: Goal,
    folder: Path,
    *,
    methods: Sequence[str],
    ratios: Sequence[float],
    seed: int = 0,
    restart: bool = False,
    on_progress: Progress = lambda done, total: None,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> Tuned:
    """Find the smallest of `ratios`, and the best of `methods`, whose loss is within the limit.

    What was measured is kept in `folder`, and a later call with the same settings goes on from it.

    Args:
        items: the questions, with right answers if `goal` is about accuracy.
        videos: the videos of the questions, opened (`aot.video.open_videos`).
        model: the model that answers.
        config: the settings that all conditions share.
        goal: the loss that is allowed.
        folder: folder of the answers; it is created if missing, and locked during the run.
        methods: names of methods, as in `aot.evaluation.build_conditions`.
        ratios: shares of the tokens to keep.
        seed: seed of the order of the videos.
        restart: whether to discard earlier answers.
        on_progress: called with the number of measured pairs of a video and a condition, and with
            about how many there will be.
        on_notice: called with sentences for the user.

    Raises:
        ConfigError: If `folder` has answers of a different run, or `methods` have nothing to tune.
        BudgetError, UnsupportedError, MethodError: If every method is refused at every ratio.
        VideoError: If a video cannot be decoded.
        MemoryLimitError, NumericsError, OutputError: See `aot.errors`.
    """
    check_questions(config.sampling, ())
    full = full_pipeline(Pipeline(model, config))
    conditions = build_conditions(config, methods, sorted(set(ratios), reverse=True))
    if any(each.key == ALL for each in conditions):
        raise ConfigError("none keeps all tokens, which is what methods are compared with; leave it out of --methods")
    make_folder(folder)
    with locked(folder):
        reference = "together" if goal.by == "accuracy" else "forced"
        tasks = [Task(Condition(ALL, full.config), full)]
        tasks += [Task(each, Pipeline(model, each.config)) for each in conditions]
        description = describe_run(model, [task.condition for task in tasks], reference)
        journal = Journal(folder, description, restart=restart)
        with Recordings(_needs(tasks), folder) as recordings:
            return _Measuring(items, videos, tasks, goal, journal, recordings, seed, on_notice).run(on_progress)


def _needs(tasks: Sequence[Task]) -> list[Needs]:
    """Return what the tasks need; those that are refused are reported when they are run."""
    found = []
    for task in tasks:
        with suppress(*REFUSALS):
            found.append(task.pipeline.needs)
    return found


class _Measuring:
    """One run: the measured losses, the search, and the means to measure more."""

    def __init__(
        self,
        items: Sequence[Item],
        videos: Mapping[Path, VideoFile],
        tasks: Sequence[Task],
        goal: Goal,
        journal: Journal,
        recordings: Recordings,
        seed: int,
        on_notice: Callable[[str], None],
    ) -> None:
        self._goal, self._journal, self._recordings, self._notify = goal, journal, recordings, on_notice
        self._items = by_video(items)
        self._videos = list(self._items)
        random.Random(seed).shuffle(self._videos)
        self._opened = videos
        self._full = tasks[0]
        self._tasks = {(task.condition.name, task.condition.ratio): task for task in tasks[1:]}
        self._references: dict[str, Reference] = {}
        self._losses = Losses(goal.limit)
        methods, ratios = ([*dict.fromkeys(part)] for part in zip(*self._tasks, strict=True))
        self._search = Search(self._losses, methods, ratios, len(self._videos))
        self._refusal: AOTError | None = None

    def run(self, on_progress: Progress) -> Tuned:
        """Measure until the search is over; return what was found."""
        done = 0
        while wanted := self._search.next():
            for _ in self._measure(wanted):
                done += 1
                on_progress(done, done + self._search.left())
        if self._refusal and not any(self._losses.videos(cell) for cell in self._tasks):
            raise self._refusal
        return verdict(self._search, self._goal.by, self._items, self._journal, self._worst())

    def _measure(self, wanted: Wanted) -> Iterator[None]:
        """Add the losses that are wanted, and yield after each video."""
        cell = wanted.cell
        for video in self._videos[self._losses.videos(cell) : wanted.videos]:
            if not self._answer(video, self._tasks[cell]):
                return
            rows = [self._row(self._tasks[cell], item) for item in self._items[video]]
            self._losses.add(cell, [self._loss(row, item) for row, item in zip(rows, self._items[video], strict=True)])
            yield

    def _answer(self, video: Path, task: Task) -> bool:
        """Answer what the journal lacks; return False if the condition is refused."""
        by_accuracy = self._goal.by == "accuracy"
        tasks = [
            replace(each, items=left)
            for each in ([self._full, task] if by_accuracy else [task])
            if (left := self._journal.missing(each.condition.key, self._items[video]))
        ]
        if not tasks:
            return True
        outcomes = answer_video(
            self._opened[video],
            tasks,
            self._notify,
            references=None if by_accuracy else self._references,
            replies="together" if by_accuracy else "none",
            recordings=self._recordings,
        )
        for outcome in outcomes:
            if outcome.refusal:
                self._refuse(task.condition, outcome.refusal.error)
                return False
            self._journal.add(outcome.answered)
        return True

    def _refuse(self, condition: Condition, error: AOTError) -> None:
        self._search.refused.add((condition.name, condition.ratio))
        self._refusal = error
        self._notify(f"{condition.key} is left out: {error}")

    def _row(self, task: Task, item: Item) -> Answered:
        row = self._journal.answer(task.condition.key, item)
        assert row is not None
        return row

    def _loss(self, row: Answered, item: Item) -> float:
        if row.fidelity is not None:
            return row.fidelity.divergence
        full = self._row(self._full, item)
        assert full.score is not None and row.score is not None
        return 100 * (full.score - row.score)

    # --- The videos that suffer most

    def _worst(self) -> tuple[WorstVideo, ...]:
        """Return the videos with the largest losses; see `Tuned.worst`."""
        cell = choose(self._search) or closest(self._search)
        if cell is None:
            return ()
        task = self._tasks[cell]
        losses = {
            video: [self._loss(self._row(task, item), item) for item in items] for video, items in self._items.items()
        }
        return worst_videos(self._items, losses, lambda video, items: self._texts(video, task, items))

    def _texts(self, video: Path, task: Task, items: Sequence[Item]) -> list[tuple[str, str]]:
        """Return for each of `items` the answers with all tokens and with the kept tokens."""
        tasks = [replace(each, items=items) for each in (self._full, task)]
        if self._goal.by == "accuracy":
            found = [[self._row(each, item) for item in items] for each in tasks]
        else:
            outcomes = answer_video(self._opened[video], tasks, self._notify, recordings=self._recordings)
            by_key: dict[str, list[Answered]] = {each.condition.key: [] for each in tasks}
            for outcome in outcomes:
                by_key[outcome.condition.key] += outcome.answered
            found = [by_key[each.condition.key] for each in tasks]
        return [(full.predicted, kept.predicted) for full, kept in zip(*found, strict=True)]
