"""Greedy max-min picks; test_flashvid.py compares them with a straight-line program."""

from __future__ import annotations

import pytest
import torch

from aot.compression.methods.flashvid import max_min_picks


def test_points_on_a_line() -> None:
    """The most isolated point first, then the end farthest from it, then the widest gap's middle."""
    places = torch.tensor([0.0, 1.0, 2.0, 5.0, 9.0])
    distances = (places[:, None] - places).abs()[None]
    assert max_min_picks(distances, 4)[0].tolist() == [4, 0, 3, 2]


def test_picks_are_distinct_unless_repeats_are_let() -> None:
    """Where every other token has a negative weight, the published rule goes on picking the same one."""
    weights = torch.tensor([1.0, -1.0, -2.0])
    distances = (1 - torch.eye(3))[None] * weights
    assert max_min_picks(distances, 3)[0].tolist() == [0, 1, 2]
    assert max_min_picks(distances, 3, repeats=True)[0].tolist() == [0, 0, 0]
    assert max_min_picks(distances, 0).shape == (1, 0)
    with pytest.raises(ValueError, match="count: expected 0 to 3, got 4"):
        max_min_picks(distances, 4)
