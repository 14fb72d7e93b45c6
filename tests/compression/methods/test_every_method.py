"""What every method promises, whatever it does: budgets, sources, finite values, the same tokens each time."""

from __future__ import annotations

import math

import pytest
import torch

from aot.compression.methods import Method, build_method
from aot.compression.ops.grid import pooled_grid
from aot.config.schema import Config
from aot.errors import BudgetError
from aot.plugins import METHODS, find
from aot.testing import Case, check_method, synthetic_video
from aot.types import Pooling, VisualTokens

COMPRESSING = tuple(name for name in METHODS if name != "none")
SHAPES = [(1, (5, 5)), (2, (6, 6)), (7, (15, 15)), (13, (8, 6))]
RATIOS = (0.03, 0.1, 0.25, 0.5, 0.9)
POOL = Pooling("bilinear", 2)
# The fewest tokens that a method keeps of F frames of n tokens; all others keep any number from 1.
LEAST = {
    "evs": lambda frames, per_frame: per_frame,
    "dycoke": lambda frames, per_frame: math.ceil(frames / 4) * per_frame,
    "aot": lambda frames, per_frame: math.ceil(frames / 4),
}
UP_TO_A_TOKEN_PER_FRAME = "aot-dyn"  # its clips are as many as the picture changes


def video(method: Method, frames: int, grid: tuple[int, int], dtype: torch.dtype = torch.float32) -> VisualTokens:
    """A picture that drifts and changes twice, with all that the method needs."""
    return synthetic_video(method.needs, Case(frames, grid, POOL, 0.5, dtype))


def made(name: str, ratio: float) -> Method:
    return build_method(Config(method=name, ratio=ratio))


def total(frames: int, grid: tuple[int, int]) -> int:
    return frames * math.prod(pooled_grid(grid, POOL))


@pytest.mark.parametrize("name", COMPRESSING)
def test_the_contract(name: str) -> None:
    check_method(name)


def _has_published_counts(name: str) -> bool:
    settings = getattr(find(name), "settings_type", find(name))
    return "paper_exact" in getattr(settings, "__dataclass_fields__", {})


@pytest.mark.parametrize("name", [name for name in COMPRESSING if _has_published_counts(name)])
def test_the_contract_as_published(name: str) -> None:
    check_method(name, {"paper_exact": True})


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("frames", "grid"), SHAPES)
@pytest.mark.parametrize("name", COMPRESSING)
def test_only_announced_budgets_are_refused(name: str, frames: int, grid: tuple[int, int], ratio: float) -> None:
    method, budget = made(name, ratio), max(1, round(ratio * total(frames, grid)))
    try:
        refused, kept = False, len(method.compress(video(method, frames, grid), budget).features)
    except BudgetError as error:
        refused, kept = True, budget
        assert "use --ratio" in str(error)
        assert find(name).card.least
    assert kept == budget
    if name == UP_TO_A_TOKEN_PER_FRAME:
        assert not refused or budget < frames
    else:
        least = LEAST[name](frames, total(1, grid)) if name in LEAST else 1
        assert refused == (budget < least)


def test_cards_announce_what_is_refused() -> None:
    announced = {name for name in COMPRESSING if find(name).card.least}
    assert announced == {*LEAST, UP_TO_A_TOKEN_PER_FRAME}


@pytest.mark.parametrize("name", METHODS)
def test_cards_are_filled_in(name: str) -> None:
    card = find(name).card
    assert card.acts
    assert card.source or card.remark
