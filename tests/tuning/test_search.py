"""The search finds what a full grid finds, from a fraction of it, on synthetic losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from aot.tuning.losses import Losses
from aot.tuning.search import Cell, Search, rungs_of

RATIOS = (0.5, 0.35, 0.25, 0.18, 0.125, 0.1, 0.07, 0.05, 0.035, 0.025)
METHODS = ("good", "near", "fair", "poor", "bad")
HARM = {"good": 1.0, "near": 1.1, "fair": 3.0, "poor": 12.0, "bad": 40.0}
VIDEOS, QUESTIONS, LIMIT = 20, 12, 1.0

Table = Mapping[Cell, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]


def drawn(seed: int, noise: float) -> Table:
    """Losses that double with each halving of the ratio, and are paired: a hard video is hard for all."""
    rng = np.random.default_rng(seed)
    hardness = rng.gamma(2, 0.5, (VIDEOS, 1))
    start = rng.uniform(0.02, 0.4)
    return {
        (method, ratio): harm * start * (0.5 / ratio) * hardness + rng.normal(0, noise, (VIDEOS, QUESTIONS))
        for method, harm in HARM.items()
        for ratio in RATIOS
    }


def searched(table: Table, limit: float = LIMIT, refused: frozenset[Cell] = frozenset()) -> tuple[Search, int]:
    """Return the finished search, and how many pairs of a video and a cell were measured."""
    losses = Losses(limit)
    search = Search(losses, METHODS, RATIOS, VIDEOS)
    cost = 0
    while wanted := search.next():
        if wanted.cell in refused:
            search.refused.add(wanted.cell)
            continue
        before = losses.videos(wanted.cell)
        assert before < wanted.videos <= VIDEOS
        for video in range(before, wanted.videos):
            losses.add(wanted.cell, table[wanted.cell][video].tolist())
            cost += 1
    return search, cost


def of_grid(table: Table, limit: float = LIMIT) -> int | None:
    passing = [
        index for index, ratio in enumerate(RATIOS) if any(table[method, ratio].mean() <= limit for method in METHODS)
    ]
    return max(passing, default=None)


@pytest.mark.parametrize(("noise", "fewest"), [(0.5, 40), (4.0, 38)])
def test_it_finds_what_the_grid_finds(noise: float, fewest: int) -> None:
    """Losses fall and rise with strong noise, and the smallest ratio that passes may be an exception."""
    same, costs = 0, []
    for seed in range(40):
        table = drawn(seed, noise)
        search, cost = searched(table)
        same += search.chosen() == of_grid(table)
        costs.append(cost / (VIDEOS * len(METHODS) * len(RATIOS)))
        if (index := search.chosen()) is not None:
            best = min(METHODS, key=lambda method: table[method, RATIOS[index]].mean())
            assert search.passing(index)[0] == best
    assert same >= fewest
    assert np.mean(costs) < 0.3


def test_the_ends_of_the_ladder() -> None:
    zeros = {cell: np.zeros((VIDEOS, 1)) for cell in drawn(0, 0)}
    search, _ = searched(zeros)
    assert search.chosen() == len(RATIOS) - 1
    search, cost = searched({cell: zeros[cell] + 9 for cell in zeros})
    assert search.chosen() is None and cost <= 4 * len(METHODS) * len(RATIOS)


def test_a_smaller_ratio_passes_where_a_larger_one_fails() -> None:
    table = dict(drawn(1, 0.5))
    first = of_grid(table)
    assert first is not None
    table["near", RATIOS[first + 2]] = np.full((VIDEOS, QUESTIONS), 0.9)
    near_miss = np.resize([3.0, -0.5], (VIDEOS, 1))  # above the limit, but not told apart from it
    table["near", RATIOS[first + 1]] = np.tile(near_miss, (1, QUESTIONS))
    table["near", RATIOS[first]] = table["near", RATIOS[first + 1]]
    search, _ = searched(table)
    assert search.chosen() == first + 2 and search.passing(first + 2) == ["near"]


def test_a_dropped_method_is_not_measured_at_smaller_ratios() -> None:
    search, _ = searched(drawn(2, 0.5))
    for method in METHODS:
        dropped = [
            ratio
            for ratio in RATIOS
            if search.losses.videos((method, ratio)) and search.losses.estimate((method, ratio), 0.99).is_above(LIMIT)
        ]
        assert len(dropped) <= 4, "each halving of the bracket may measure one, from below"


def test_refusals() -> None:
    table = drawn(3, 0.5)
    every = frozenset(("good", ratio) for ratio in RATIOS)
    search, _ = searched(table, refused=every)
    assert search.chosen() is not None and "good" not in search.passing(search.chosen())
    assert search.state(("good", 0.1)) in ("refused", "not measured")
    search, cost = searched(table, refused=frozenset(table))
    assert (search.chosen(), cost) == (None, 0)


def test_it_goes_on_where_it_stopped() -> None:
    table = drawn(4, 2.0)
    _, cost = searched(table)
    for stop in (1, 7, cost // 2):
        losses, done = Losses(LIMIT), 0
        search = Search(losses, METHODS, RATIOS, VIDEOS)
        while (wanted := search.next()) and done < stop:
            for video in range(losses.videos(wanted.cell), wanted.videos):
                losses.add(wanted.cell, table[wanted.cell][video].tolist())
                done += 1
        again = Search(losses, METHODS, RATIOS, VIDEOS)
        assert again.next() == search.next()


@pytest.mark.parametrize(
    ("videos", "rungs"), [(1, (1,)), (3, (3,)), (5, (4, 5)), (20, (5, 8, 10, 13, 15, 18, 20)), (7, (4, 5, 6, 7))]
)
def test_rungs(videos: int, rungs: tuple[int, ...]) -> None:
    assert rungs_of(videos) == rungs


def test_the_lowest_loss_is_compared_on_the_same_videos_and_completed() -> None:
    """The first videos are hard for all methods, so means over other videos are lower."""
    table = dict(drawn(5, 0.0))
    for cell in table:
        table[cell] = table[cell] + 50 - np.linspace(0, 20, VIDEOS)[:, None]
    search, _ = searched(table)
    best = min(table, key=lambda cell: table[cell].mean())
    lowest = search.lowest(list(table))
    assert search.chosen() is None and lowest == best and search.losses.videos(best) == VIDEOS
    some = Losses(LIMIT)
    for loss, videos in {"some": [1.0], "all": [2.0, 0.0], "refused": [0.0]}.items():
        for value in videos:
            some.add((loss, 0.5), [value])
    by_hand = Search(some, ("all", "some", "refused"), (0.5,), 2)
    by_hand.refused.add(("refused", 0.5))
    cells = [("all", 0.5), ("some", 0.5), ("refused", 0.5), ("missing", 0.5)]
    assert by_hand.lowest(cells) == ("some", 0.5) and by_hand.lowest(cells[3:]) is None


def test_few_videos_drop_nothing_that_is_not_told_apart() -> None:
    losses = Losses(LIMIT)
    search = Search(losses, ("a", "b"), (0.5,), 2)
    measured: list[Cell] = []
    values: Callable[[str], float] = {"a": 0.5, "b": 0.9}.__getitem__
    while wanted := search.next():
        measured.append(wanted.cell)
        for video in range(wanted.videos):
            losses.add(wanted.cell, [values(wanted.cell[0]) + video / 10])
    assert measured == [("a", 0.5), ("b", 0.5)]
