"""What is drawn on a picture: by sample, before any codec."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aot.compression.ops.source_weights import of_kept
from aot.reports.fates import Fate
from aot.reports.overlay.paint import INKS, OUTLINE_COLORS, Painter, TokenFates, token_fates, yuv
from aot.types import Clip, CompressedTokens, Role

HEIGHT, WIDTH = 96, 160
GRID = (2, len(Fate))
ALL = torch.arange(len(Fate), dtype=torch.uint8).repeat(2)


def painted(tokens: TokenFates, time_s: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The samples of a random picture, and the same drawn upon."""
    planes = np.random.default_rng(0).integers(16, 236, HEIGHT * WIDTH * 3 // 2).astype(np.uint8)
    return planes, Painter(HEIGHT, WIDTH, tokens, 0.0, 10.0).draw(planes, time_s)


def luma(planes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return planes[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH).astype(np.int64)


def chroma(planes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[2, H / 2, W / 2]"""
    return planes[HEIGHT * WIDTH :].reshape(2, HEIGHT // 2, WIDTH // 2).astype(np.int64)


def inside(column: int) -> tuple[slice, slice]:
    """The middle of a cell of the upper row, away from outlines."""
    left, right = column * WIDTH / GRID[1], (column + 1) * WIDTH / GRID[1]
    return slice(8, HEIGHT // 2 - 8), slice(math.ceil(left) + 6, math.floor(right) - 6)


def test_kept_cells_are_untouched_and_the_others_darker() -> None:
    before, after = painted(TokenFates(ALL[None], GRID, [0.0]))
    share = {}
    for fate in Fate:
        old, new = luma(before)[inside(fate)], luma(after)[inside(fate)]
        if fate >= Fate.KEPT:
            assert (old == new).all()
        else:
            share[fate] = float((new - 16).sum() / (old - 16).sum())
            rows, columns = (slice(part.start // 2, part.stop // 2) for part in inside(fate))
            old, new = (abs(chroma(planes)[:, rows, columns] - 128) for planes in (before, after))
            assert new.sum() < 0.8 * old.sum()
    assert share[Fate.DISCARDED] < 0.3 < share[Fate.MERGED] < 0.6


def test_merged_cells_are_hatched() -> None:
    _, after = painted(TokenFates(torch.full((1, 14), int(Fate.MERGED), dtype=torch.uint8), GRID, [0.0]))
    inks = Painter(HEIGHT, WIDTH, TokenFates(torch.ones(1, 14, dtype=torch.uint8), GRID, [0.0]), 0, 1).inks(0)
    above = inks[:80]
    assert 0.4 < (above == Fate.MERGED).mean() < 0.6
    assert luma(after)[:80][above == Fate.MERGED].mean() > 1.3 * luma(after)[:80][above != Fate.MERGED].mean()


def test_each_kept_fate_has_its_outline() -> None:
    _, after = painted(TokenFates(ALL[None], GRID, [0.0]))
    for fate, color in OUTLINE_COLORS.items():
        column = round((fate + 0.5) * WIDTH / GRID[1])
        assert luma(after)[0, column] == yuv(color)[0]
        assert tuple(chroma(after)[:, 0, column // 2]) == yuv(color)[1:]
    assert len(set(OUTLINE_COLORS.values())) == len(OUTLINE_COLORS)


def test_the_nearest_frame_is_drawn_the_earlier_on_a_tie() -> None:
    fates = torch.zeros(3, 14, dtype=torch.uint8)
    fates[1] = Fate.KEPT
    tokens = TokenFates(fates, GRID, [1.0, 2.0, 5.0])
    kept = []
    for time_s in (0.0, 1.5, 1.51, 3.5, 3.51, 9.0):
        before, after = painted(tokens, time_s)
        kept.append(bool((luma(before)[inside(0)] == luma(after)[inside(0)]).all()))
    assert kept == [False, False, True, True, False, False]


def test_only_keyframes_have_a_border() -> None:
    tokens = TokenFates(torch.zeros(3, 14, dtype=torch.uint8), GRID, [0.0, 5.0, 10.0], frozenset({0, 2}))
    (yellow,) = (number for number, ink in INKS.items() if ink.color == (0xF0, 0xE4, 0x42) and number < max(INKS) - 3)
    for frame, marked in enumerate((True, False, True)):
        inks = Painter(HEIGHT, WIDTH, tokens, 0, 10).inks(frame)
        strip = Painter(HEIGHT, WIDTH, tokens, 0, 10).layout.strip
        for edge in (inks[0], inks[-strip - 1], inks[:-strip, 0], inks[:-strip, -1]):
            assert (edge == yellow).all() == marked
            assert (edge == yellow).any() == marked
        assert (inks[10:80, 10:150] == Fate.DISCARDED).all()


def test_the_strip_has_a_tick_for_each_frame_and_a_cursor_that_moves() -> None:
    tokens = TokenFates(torch.zeros(3, 14, dtype=torch.uint8), GRID, [0.0, 5.0, 10.0], frozenset({0}))
    painter = Painter(HEIGHT, WIDTH, tokens, 0, 10)
    tick, strip = painter.layout.tick, painter.layout.strip
    inks = painter.inks(1)
    high, low = inks[-strip], inks[-1]
    assert {number for number, ink in enumerate(high) if ink != high[10]} == set(range(tick))
    lefts = (0, WIDTH // 2, WIDTH - tick)
    assert {number for number, ink in enumerate(low) if ink != low[10]} == {
        left + step for left in lefts for step in range(tick)
    }
    places = []
    for time_s in (0.0, 2.5, 7.5, 10.0):
        _, after = painted(tokens, time_s)
        white = np.flatnonzero((luma(after)[-strip:] == 235).all(0))
        assert len(white) == 2 * tick
        places.append(int(white[0]))
    assert places == [0, 2 * round(0.25 * 78), 2 * round(0.75 * 78), WIDTH - 2 * tick]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(1, 9))
def test_any_size_and_grid(half_height: int, half_width: int, rows: int, cols: int) -> None:
    fates = torch.arange(rows * cols).remainder(len(Fate)).to(torch.uint8)[None]
    painter = Painter(2 * half_height, 2 * half_width, TokenFates(fates, (rows, cols), [3.0], frozenset({0})), 0, 0)
    planes = np.full(6 * half_height * half_width, 100, np.uint8)
    assert painter.draw(planes, 0.0).shape == planes.shape
    assert set(np.unique(painter.inks(0)).tolist()) <= set(INKS)


@pytest.mark.parametrize(("clips", "keyframes"), [([(0, 2), (2, 3)], {0, 2}), ([(0, 1), (1, 2), (2, 3)], set())])
def test_keyframes_are_those_of_clips(clips: list[tuple[int, int]], keyframes: set[int]) -> None:
    places = torch.tensor([0, 2, 1], dtype=torch.int32)
    tokens = CompressedTokens(
        torch.zeros(3, 4), places, torch.zeros(3, dtype=torch.int32), places % 2, torch.full((3,), int(Role.KEPT)),
        torch.ones(3), (1, 2), (0.0, 1.0, 2.0), tuple(Clip(*clip) for clip in clips),
    )  # fmt: skip
    seen = token_fates(replace(tokens, sources=of_kept(tokens)))
    assert set(seen.keyframes) == keyframes
    assert seen.fates.tolist() == [[Fate.KEPT, 0], [0, Fate.KEPT], [Fate.KEPT, 0]]
