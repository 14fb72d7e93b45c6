"""State what a search has found: the choice, how sure it is, and where it loses most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import NormalDist, fmean, median

from aot.evaluation.dataset import Item
from aot.evaluation.journal import Journal
from aot.evaluation.journal_reader import Answered
from aot.tuning.losses import Estimate
from aot.tuning.search import Cell, Search, State

__all__ = [
    "ALL",
    "SURE",
    "Choice",
    "Measured",
    "Tuned",
    "WorstQuestion",
    "WorstVideo",
    "choose",
    "closest",
    "verdict",
    "worst_videos",
]

SURE = 0.95  # share of resamples within the limit from which on a choice is settled
_MOST_TIMES = 50  # so many times the videos may settle a choice; beyond, it is practically at the limit
_WORST_VIDEOS, _WORST_QUESTIONS = 5, 3
ALL = "none"  # the condition that keeps all tokens


@dataclass(frozen=True, slots=True)
class Measured:
    """A method at a ratio. Values other than the first three are None if nothing was measured.

    Attributes:
        state: "open" is measured on some videos, and neither within nor told apart from the limit.
        loss: mean loss over questions, with its interval over videos.
        same_answers: share of the questions whose greedy answer is that of all tokens.
        kept_tokens: mean over videos.
        compress_ms: median over videos.
    """

    method: str
    ratio: float
    state: State
    loss: Estimate | None = None
    same_answers: float | None = None
    kept_tokens: float | None = None
    compress_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The smallest ratio within the limit, and the method with the lowest loss there.

    Attributes:
        measured: its figures.
        tied: other methods that cannot be told apart from it at this ratio, by their mean loss.
        is_settled: whether it is within the limit in at least 95 % of the resamples of the videos.
        videos_to_settle: about how many more videos would settle it; 0 if it is settled, None if
            no number of videos would, or there are too few videos to say.
    """

    measured: Measured
    tied: tuple[str, ...]
    is_settled: bool
    videos_to_settle: int | None


@dataclass(frozen=True, slots=True)
class WorstQuestion:
    """A question with a large loss, and its answers; `right` is None if it is not known."""

    question: str
    right: str | None
    with_all: str
    with_kept: str
    loss: float


@dataclass(frozen=True, slots=True)
class WorstVideo:
    """A video with a large mean loss, and its questions with the largest losses."""

    video: str
    loss: float
    questions: tuple[WorstQuestion, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of `aot.tuning.tune`.

    Attributes:
        by: "accuracy" (losses in points) or "divergence" (in nats).
        limit: the largest mean loss that is allowed.
        videos: number of videos.
        questions: number of questions.
        visual_tokens: number of tokens before compression, mean over videos.
        full_accuracy: share of the questions that are answered right with all tokens; None by
            divergence.
        choice: None if no method stays within the limit at any ratio.
        closest: without a choice, the lowest loss; otherwise, the lowest at the next smaller ratio.
            None if nothing was measured.
        measured: every method at every ratio, in the order of the ratios.
        worst: the videos that lose most at the choice, or without a choice at `closest`.
    """

    by: str
    limit: float
    videos: int
    questions: int
    visual_tokens: float
    full_accuracy: float | None
    choice: Choice | None
    closest: Measured | None
    measured: tuple[Measured, ...]
    worst: tuple[WorstVideo, ...]


def choose(search: Search) -> Cell | None:
    """Return the best method at the smallest ratio that passes, or None."""
    index = search.chosen()
    return None if index is None else (search.passing(index)[0], search.ratios[index])


def closest(search: Search) -> Cell | None:
    """Return what comes nearest to passing; see `Tuned.closest`."""
    index = search.chosen()
    ratios = search.ratios if index is None else search.ratios[index + 1 : index + 2]
    return search.lowest([*product(search.methods, ratios)])


def verdict(
    search: Search, by: str, items: Mapping[Path, Sequence[Item]], journal: Journal, worst: Sequence[WorstVideo]
) -> Tuned:
    """Return what a finished search has found."""
    every = [item for asked in items.values() for item in asked]
    rows = {
        (method, ratio): _rows(journal, method, ratio, every) for ratio in search.ratios for method in search.methods
    }
    measured = {cell: _measured(search, by, cell, of_cell) for cell, of_cell in rows.items()}
    chosen, near = choose(search), closest(search)
    tokens = [row.visual_tokens for of_cell in rows.values() for row in of_cell]
    full = [row.score for item in every if (row := journal.answer(ALL, item)) and row.score is not None]
    return Tuned(
        by=by,
        limit=search.losses.limit,
        videos=len(items),
        questions=len(every),
        visual_tokens=fmean(tokens) if tokens else 0.0,
        full_accuracy=fmean(full) if full else None,
        choice=_choice(search, measured[chosen]) if chosen else None,
        closest=measured[near] if near else None,
        measured=tuple(measured.values()),
        worst=tuple(worst),
    )


def _rows(journal: Journal, method: str, ratio: float, items: Sequence[Item]) -> list[Answered]:
    return [row for item in items if (row := journal.answer(f"{method}@{ratio:g}", item))]


def _measured(search: Search, by: str, cell: Cell, rows: Sequence[Answered]) -> Measured:
    state = search.state(cell)
    if not search.losses.videos(cell):
        return Measured(*cell, state)
    loss = search.losses.estimate(cell)
    # All answers about a video have the same costs.
    of_videos = list({row.video: row for row in rows}.values())
    near = [row.fidelity.same_answer for row in rows if row.fidelity]
    return Measured(
        *cell,
        state,
        loss if by == "accuracy" else loss.at_least(0.0),
        fmean(near) if near else None,
        fmean(row.kept_tokens for row in of_videos),
        median(row.compress_ms for row in of_videos),
    )


def _choice(search: Search, measured: Measured) -> Choice:
    losses, cell = search.losses, (measured.method, measured.ratio)
    others = [(method, measured.ratio) for method in search.methods if method != measured.method]
    complete = [each for each in others if losses.videos(each) == losses.videos(cell)]
    tied = [each for each in complete if not losses.difference(each, cell).is_above(0)]
    assert measured.loss is not None
    within = measured.loss.within
    return Choice(
        measured,
        tuple(method for method, _ in sorted(tied, key=lambda each: losses.estimate(each).mean)),
        is_settled=within is not None and within >= SURE,
        videos_to_settle=videos_to_settle(measured.loss, losses.limit),
    )


def videos_to_settle(loss: Estimate, limit: float) -> int | None:
    """Return about how many more videos would settle whether `loss` is within `limit`.

    With n videos of this kind, the mean is within the limit in 95 % of the resamples if its
    distance to the limit is 1.64 standard deviations, which shrink with the root of n.
    """
    if loss.within is None:
        return None
    distance = abs(limit - loss.mean)
    one_video = loss.spread * math.sqrt(loss.videos)
    if loss.within >= SURE:
        return 0
    needed = (NormalDist().inv_cdf(SURE) * one_video / distance) ** 2 if distance else math.inf
    return max(math.ceil(needed) - loss.videos, 1) if needed <= _MOST_TIMES * loss.videos else None


def worst_videos(
    items: Mapping[Path, Sequence[Item]],
    losses: Mapping[Path, Sequence[float]],
    texts: Callable[[Path, Sequence[Item]], Sequence[tuple[str, str]]],
) -> tuple[WorstVideo, ...]:
    """Return the videos with the largest mean losses that are above 0.

    Args:
        items: the questions of each video.
        losses: their losses.
        texts: returns, for some questions about a video, the answers with all tokens and with the
            kept tokens.
    """
    means = {video: fmean(of_video) for video, of_video in losses.items()}
    found: list[WorstVideo] = []
    for video in sorted((each for each in means if means[each] > 0), key=means.__getitem__, reverse=True):
        if len(found) == _WORST_VIDEOS:
            break
        worst = sorted(zip(losses[video], items[video], strict=True), key=lambda pair: -pair[0])[:_WORST_QUESTIONS]
        worst = [(loss, item) for loss, item in worst if loss > 0]
        answers = texts(video, [item for _, item in worst])
        questions = [
            WorstQuestion(item.question, item.answer, *answer, loss)
            for (loss, item), answer in zip(worst, answers, strict=True)
        ]
        found.append(WorstVideo(video.name, means[video], tuple(questions)))
    return tuple(found)
