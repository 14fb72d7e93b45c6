"""The picture of an evaluation: equal for equal results, and readable for few and for many."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.evaluation.bootstrap import Interval
from aot.evaluation.plot import accuracy_figure, plot_accuracy, spread
from aot.evaluation.results import ConditionResult, Results

RATIOS = {1: (0.1,), 2: (0.25, 0.1), 4: (0.5, 0.25, 0.1, 0.05), 8: (0.75, 0.5, 0.35, 0.25, 0.2, 0.15, 0.1, 0.05)}


def condition(name: str, ratio: float, mean: float, width: float | None = 0.015) -> ConditionResult:
    bounds = (None, None) if width is None else (mean - width, mean + width)
    found = Interval(mean, *bounds)
    return ConditionResult(name, ratio, found, found, {}, {}, 1, 1, ratio, 1, 1, 1, 1, (1,))


def results(*conditions: ConditionResult, videos: int = 200) -> Results:
    return Results(videos, 400, {"all": 400}, 100, 1, 1, conditions)


def made(ratios: int, methods: int) -> Results:
    """Methods of random strength, some of them as good as equal, and all tokens just above the best."""
    losses = np.random.default_rng(methods).uniform(0, 0.6, methods) ** 2
    points = [
        condition(f"method {number}", ratio, 0.9 - loss * (1 - ratio))
        for number, loss in enumerate(losses)
        for ratio in RATIOS[ratios]
    ]
    return results(condition("none", 1.0, 0.905), *points)


def names_in(figure: Any) -> dict[str, Any]:
    """The box in pixels of every method's name, and of \"all tokens\" where that is written at its line."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [text for text in (*axes.texts, *axes.get_yticklabels()) if text.get_text()[:1].isalpha()]
    return {text.get_text(): Text.get_window_extent(text) for text in texts}  # of an annotation without its arrow


@pytest.mark.parametrize("methods", [1, 2, 6, 7, 30])
@pytest.mark.parametrize("ratios", RATIOS)
def test_names_can_be_read(ratios: int, methods: int) -> None:
    """They lie outside the axes, where no marker, line or interval is, inside the picture, and not on one another."""
    figure = accuracy_figure(made(ratios, methods))
    names = names_in(figure)
    assert set(names) - {"all tokens"} == {f"method {number}" for number in range(methods)}
    (axes,) = figure.axes
    for name, box in names.items():
        assert not box.overlaps(axes.bbox), name
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, name
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, name
    for (one, box), (other, second) in combinations(names.items(), 2):
        assert not box.overlaps(second), (one, other)


@pytest.mark.parametrize("ratios", [2, 4, 8])
def test_a_name_is_joined_to_the_last_point_of_its_line(ratios: int) -> None:
    figure = accuracy_figure(made(ratios, 7))
    (axes,) = figure.axes
    ends = {(container[0].get_xdata()[0], container[0].get_ydata()[0]) for container in axes.containers}
    joined = {text.xy for text in axes.texts if text.get_text() != "all tokens"}
    assert joined == ends
    assert len(joined) == 7


def test_many_methods_get_a_row_each_best_on_top() -> None:
    points = [condition(f"method {number}", 0.1, number / 20) for number in range(12)]
    (axes,) = accuracy_figure(results(condition("none", 1.0, 0.9), *points)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"method {number}" for number in range(12)]


def test_one_video_has_no_intervals() -> None:
    alone = results(*(condition("aot", ratio, ratio, None) for ratio in (0.25, 0.1)), videos=1)
    (axes,) = accuracy_figure(alone).axes
    assert axes.get_title() == "400 questions about 1 video"
    assert not any(container.has_yerr for container in axes.containers)
    (axes,) = accuracy_figure(made(2, 2)).axes
    assert axes.get_title() == "400 questions about 200 videos, 95 % intervals"
    assert all(container.has_yerr for container in axes.containers)


def test_all_tokens_alone_and_a_name_that_looks_like_a_formula(tmp_path: Path) -> None:
    full = condition("none", 1.0, 0.9)
    for name, found in (("alone.svg", results(full)), ("formula.svg", results(full, condition("$x", 0.1, 0.5)))):
        plot_accuracy(found, tmp_path / name)
        assert "all tokens" in (tmp_path / name).read_text("utf-8")
    assert "$x" in (tmp_path / "formula.svg").read_text("utf-8")


@pytest.mark.parametrize("methods", [3, 12])
@pytest.mark.parametrize("name", ["accuracy.svg", "accuracy.png"])
def test_equal_results_are_equal_files(tmp_path: Path, name: str, methods: int) -> None:
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        plot_accuracy(made(4, methods), folder / name)
        written.append((folder / name).read_bytes())
    assert written[0] == written[1]
    assert written[0][:4] in (b"\x89PNG", b"<?xm")
    changed = made(4, methods)
    plot_accuracy(replace(changed, conditions=changed.conditions[:-1]), tmp_path / name)
    assert (tmp_path / name).read_bytes() != written[0]


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(0.1, 10))
def test_names_are_moved_apart_in_their_order(heights: list[float], gap: float) -> None:
    placed = spread(heights, gap)
    ordered = [index for _, index in sorted(zip(heights, placed, strict=True))]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(ordered))
    assert sum(placed) == pytest.approx(sum(heights), abs=1e-6)
    assert spread(placed, gap * 0.999) == pytest.approx(placed)


def test_names_that_are_apart_stay() -> None:
    assert spread([9.0, 1.0, 5.0], 2.0) == [9.0, 1.0, 5.0]
    assert spread([5.0, 5.0, 50.0], 2.0) == [4.0, 6.0, 50.0]


@pytest.mark.parametrize("ratios", [1, 2])
def test_a_name_with_control_characters_is_drawn_in_both_formats(tmp_path: Path, ratios: int) -> None:
    """SVG is XML, which has no control characters."""
    shown = [condition("a\x1b[31m\n\x07\u202eb", 0.1 * (number + 1), 0.5) for number in range(ratios)]
    for name in ("a.svg", "a.png"):
        plot_accuracy(results(*shown), tmp_path / name)
    ElementTree.parse(tmp_path / "a.svg")
    assert any("a\ufffd[31m \ufffd\ufffdb" in text for text in names_in(accuracy_figure(results(*shown))))
