from __future__ import annotations

from pathlib import Path

import pytest

from aot.evaluation.dataset import Item
from aot.evaluation.scoring import score


def item(answer: str, *options: str, family: str = "all") -> Item:
    return Item("1", Path("a.mp4"), "which?", answer, options, family)


@pytest.mark.parametrize(
    ("answer", "predicted", "right"),
    [
        ("red", "red", True), ("red", " Red.", True), ("the red star", "red star", True), ("red", "a red", True),
        ("top left", "top  left!", True), ("red", "red star", False), ("red", "", False), ("theatre", "atre", False),
        ("no", "No, it is not", False), ("3", "three", True), ("three", "3.", True), ("3", "four", False),
        ("two red stars", "2 red stars", True),
    ],
)  # fmt: skip
def test_free_answers(answer: str, predicted: str, right: bool) -> None:
    assert score(item(answer), predicted) == right


@pytest.mark.parametrize(
    ("predicted", "right"),
    [("B", True), ("b", True), ("(B)", True), ("B. blue", True), ("B: it is blue", True), ("blue", True),
     ("Blue.", True), ("B\n", True), ("A", False), ("A blue one, or a B", False), ("red", False),
     ("Both", False), ("", False), ("D", False), ("green", False)],
)  # fmt: skip
def test_multiple_choice(predicted: str, right: bool) -> None:
    assert score(item("blue", "red", "blue", "green"), predicted) == right
    assert score(item("B", "red", "blue", "green"), predicted) == right


TRUE = "the red star is small and flashes . the blue cross is large and stays still . the scene changes ."


@pytest.mark.parametrize(
    ("predicted", "share"),
    [
        (TRUE, 1.0),
        ("The blue cross is large and stays still. The red star is small and flashes. The scene changes.", 1.0),
        ("the red star is small and flashes.", 1 / 3),
        ("the red star is large and flashes. the scene changes", 1 / 3),
        ("the red star is small and flashes. " * 3, 1 / 3),
        (TRUE + " the green circle is small and moves left . the white star is small and moves left .", 3 / 5),
        ("", 0.0),
    ],
)
def test_descriptions_score_matched_over_the_longer(predicted: str, share: float) -> None:
    assert score(item(TRUE, family="describe"), predicted) == pytest.approx(share)
