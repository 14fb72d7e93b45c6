"""Sizes, packing and window order against the stock processors and tower."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as per_frame
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_all
from transformers.vision_utils import get_vision_window_index

from aot.errors import ModelError
from aot.models.families.qwen_frames import FrameSizes, inverse, packed, window_order
from tests.support.qwen_inputs import patches_of

SIDES = st.integers(20, 4000)
PIXELS = st.tuples(st.integers(1, 4000), st.integers(1, 4000)).map(lambda ends: (min(ends) * 784, max(ends) * 784))


@given(SIDES, SIDES, st.integers(1, 300), PIXELS)
def test_a_frames_pixels_as_the_stock_processor_limits_them(
    height: int, width: int, frames: int, pixels: tuple[int, int]
) -> None:
    found = FrameSizes(28, *pixels).of_frame(height, width, frames)
    assert found == per_frame(height, width, 28, *pixels)


@given(SIDES, SIDES, st.integers(2, 300), PIXELS)
def test_a_videos_pixels_as_the_stock_processor_limits_them(
    height: int, width: int, frames: int, pixels: tuple[int, int]
) -> None:
    found = FrameSizes(32, *pixels, of_all=True).of_frame(height, width, frames)
    assert found == of_all(frames, height, width, 2, 32, *pixels)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 64), st.integers(784, 10**6), st.booleans())
def test_the_users_limit_holds_for_every_frame(height: int, width: int, frames: int, most: int, of_all: bool) -> None:
    """Also of a video one pixel high, which the stock processors refuse."""
    sizes = FrameSizes(28, 4 * 784, 16384 * 784, of_all)
    rows, cols = sizes.of_frame(height, width, frames, most)
    assert rows % 28 == cols % 28 == 0
    assert 0 < rows * cols <= most
    free = sizes.of_frame(height, width, frames)
    assert (rows, cols) == free or math.prod(free) > most


def test_one_frame_is_measured_as_a_pair() -> None:
    sizes = FrameSizes(32, 4096, 32 * 32 * 64, of_all=True)
    assert (
        sizes.of_frame(720, 1280, 1) == sizes.of_frame(720, 1280, 2) == of_all(2, 720, 1280, 2, 32, 4096, 32 * 32 * 64)
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (100, 200)),
        ({"size": {"shortest_edge": 5, "longest_edge": 6}}, (5, 6)),
        ({"min_pixels": 7, "max_pixels": 8}, (7, 8)),
        ({"min_pixels": 7, "max_pixels": 8, "size": {"shortest_edge": 5, "longest_edge": 6}}, (7, 8)),
        ({"size": {"min_pixels": 5, "max_pixels": 6}}, (5, 6)),
        ({"size": {"longest_edge": 300}, "min_pixels": None}, (100, 300)),
        ({"size": 384}, (100, 200)),
    ],
)
def test_limits_in_a_checkpoints_file(settings: dict[str, Any], expected: tuple[int, int]) -> None:
    found = FrameSizes.of(settings, FrameSizes(28, 100, 200, of_all=True))
    assert found == FrameSizes(28, *expected, of_all=True)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", [3]])
def test_limits_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(ModelError, match="preprocessor's pixel limits"):
        FrameSizes.of({"max_pixels": value}, FrameSizes(28, 100, 200))


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 8, 8), (4, 16, 24), (5, 24, 8), (1, 8, 40)])
def test_packing_by_hand(frames: int, height: int, width: int) -> None:
    pixels = torch.randn(frames, 3, height, width, generator=torch.Generator().manual_seed(frames))
    pictures = [*pixels, pixels[-1]]
    pairs = [(pictures[k], pictures[k + 1]) for k in range(0, frames, 2)]
    expected = torch.stack([patch for pair in pairs for patch in patches_of(*pair)])
    assert torch.equal(packed(pixels, temporal=2, patch=4, merge=2), expected)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 5), st.integers(1, 3))
def test_window_order_is_the_stock_towers(rows: int, cols: int, side: int, pairs: int) -> None:
    order = window_order(rows, cols, side)
    every = torch.cat([order + pair * rows * cols for pair in range(pairs)])
    stock, _ = get_vision_window_index(torch.tensor([[pairs, 2 * rows, 2 * cols]]), 2, side * 2 * 14, 14)
    assert torch.equal(every, stock)
    assert torch.equal(order[inverse(order)], torch.arange(rows * cols))
