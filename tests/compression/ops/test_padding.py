"""Padded tables: what is in front of the padding, on the CPU and where nothing may be read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops import padding
from aot.compression.ops.budget import spread, spread_rows
from aot.compression.ops.clips import CutClips, clip_bounds, joined_clips
from aot.compression.ops.padding import batches, fixed_point, longest, packed, placed, true_indices, true_rows
from aot.types import Clip

CPU = torch.device("cpu")


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "is_queued", lambda device: True)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 25))
def test_indices_of_what_is_true(mask: list[bool], count: int) -> None:
    own = [i for i, each in enumerate(mask) if each][:count]
    assert true_indices(torch.tensor(mask), count).tolist() == own + [0] * (count - len(own))


@given(st.lists(st.tuples(st.integers(0, 50), st.lists(st.integers(0, 9), min_size=4, max_size=4)), min_size=1))
def test_rows_are_spread_as_each_alone(rows: list[tuple[int, list[int]]]) -> None:
    totals = [min(total, sum(capacities)) for total, capacities in rows]
    expected = [spread(total, capacities) for total, (_, capacities) in zip(totals, rows, strict=True)]
    found = spread_rows(torch.tensor(totals), torch.tensor([capacities for _, capacities in rows]))
    assert [tuple(row) for row in found.tolist()] == expected


def test_the_cpu_pads_to_the_longest() -> None:
    mask = torch.tensor([[False, True, False, True], [False, False, False, True]])
    index, valid = packed(mask, 4)
    assert index[valid].tolist() == [1, 3, 3]
    assert valid.tolist() == [[True, True], [True, False]]
    assert longest(torch.tensor([], dtype=torch.long), 7) == 0
    assert true_rows(mask.any(0)).tolist() == [1, 3]
    assert list(batches(torch.tensor([4, 4, 2, 4]))) == [slice(0, 2), slice(2, 3), slice(3, 4)]


@pytest.mark.usefixtures("queues")
def test_a_device_pads_to_what_the_host_knows() -> None:
    mask = torch.tensor([[False, True, False, True], [False, False, False, True]])
    index, valid = packed(mask, 3)
    assert index[valid].tolist() == [1, 3, 3]
    assert valid.shape == (2, 3)
    assert true_rows(mask.any(0)).tolist() == [0, 1, 2, 3]
    assert list(batches(torch.tensor([4, 4, 2, 4]))) == [slice(0, 4)]


@pytest.mark.parametrize("is_queued", [False, True])
@given(st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_a_fixed_point_is_that_of_a_loop(is_queued: bool, ups: list[int]) -> None:
    steps = torch.tensor([max(number, up) for number, up in enumerate(ups)])
    number = 0
    while steps[number] != number:
        number = int(steps[number])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(padding, "is_queued", lambda device: is_queued)
        assert fixed_point(lambda numbers: steps[numbers], 9, CPU).tolist() == [number]


def test_only_valid_rows_are_placed() -> None:
    rows, values = torch.zeros(3, 1), torch.tensor([[5.0], [6.0], [7.0]])
    found = placed(rows, torch.tensor([2, 0, 0]), values, torch.tensor([True, False, True]))
    assert found[:, 0].tolist() == [7.0, 0.0, 5.0]
    assert rows.sum() == 0


def test_clips_of_chunks_and_of_frames() -> None:
    clips = CutClips(torch.tensor([True, False, True]))
    assert clips == (Clip(0, 2), Clip(2, 3)) == tuple(clips)
    both = joined_clips([clips, clips], [0, 3])
    assert isinstance(both, CutClips)
    assert both == joined_clips([tuple(clips), tuple(clips)], [0, 3])
    for each in (clips, tuple(clips)):
        first, length = clip_bounds(each, CPU)
        assert (first.tolist(), length.tolist()) == ([0, 0, 2], [2, 2, 1])
