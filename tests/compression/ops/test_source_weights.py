"""Source weights by hand: tokens of tokens of cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aot.compression.ops.source_weights import (
    blended,
    chosen,
    joined,
    merged,
    of_chunks,
    of_frames,
    of_kept,
    of_patches,
    unchanged,
)  # fmt: skip
from aot.types import Pooling, SourceWeights, VisualTokens
from tests.support.kept_by_hand import kept, made_of

Entry = tuple[int, int, float]


def entries(sources: SourceWeights) -> list[Entry]:
    return sorted(zip(sources.token.tolist(), sources.source.tolist(), sources.weight.tolist(), strict=True))


def test_places_are_tokens_of_their_own() -> None:
    assert entries(unchanged(torch.tensor([[4, 2], [0, 4]]))) == [(0, 4, 1.0), (1, 2, 1.0), (2, 0, 1.0), (3, 4, 1.0)]


def test_a_mean_of_means_weighs_means_alike() -> None:
    pair = merged(unchanged(torch.tensor([5, 6, 7])), torch.tensor([0, 0, 1]))
    assert entries(merged(pair, torch.tensor([0, 0]))) == [(0, 5, 0.25), (0, 6, 0.25), (0, 7, 0.5)]
    assert entries(merged(pair, torch.tensor([0, 0]), torch.tensor([6.0, 2.0]))) == [
        (0, 5, 0.375), (0, 6, 0.375), (0, 7, 0.25),
    ]  # fmt: skip


def test_tokens_of_no_group_and_of_no_weight_are_left_out() -> None:
    some = merged(unchanged(torch.arange(4)), torch.tensor([1, -1, 0, 1]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (some.count, entries(some)) == (2, [(0, 2, 1.0), (1, 0, 1.0)])


def test_a_blend_of_own_and_others() -> None:
    """The second token has no others."""
    own, others = unchanged(torch.tensor([0, 1])), merged(unchanged(torch.tensor([2, 3])), torch.tensor([0, 0]))
    assert entries(blended(own, others, 0.5)) == [(0, 0, 0.5), (0, 2, 0.25), (0, 3, 0.25), (1, 1, 1.0)]
    assert entries(blended(own, others, torch.tensor([0.0, 0.0]))) == [(0, 2, 0.5), (0, 3, 0.5), (1, 1, 1.0)]


def test_chosen_tokens_come_in_their_order() -> None:
    assert entries(chosen(unchanged(torch.tensor([9, 8, 7])), torch.tensor([2, 0]))) == [(0, 7, 1.0), (1, 9, 1.0)]


def test_parts_are_numbered_through_even_where_one_is_empty() -> None:
    nothing = unchanged(torch.tensor([], dtype=torch.long))
    parts = [
        unchanged(torch.tensor([1, 2])),
        merged(nothing, torch.tensor([], dtype=torch.long)),
        unchanged(torch.tensor([0])),
    ]
    assert entries(joined(parts)) == [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)]


def test_weights_of_frames_in_a_row_whatever_their_factor() -> None:
    weights = torch.tensor([[[2.0, 2.0, 0.0]], [[0.0, 0.1, 0.3]]])
    assert entries(of_frames(weights.double(), first=4)) == [
        (0, 12, 0.5),
        (0, 13, 0.5),
        (1, 16, pytest.approx(0.25)),
        (1, 17, pytest.approx(0.75)),
    ]


def test_patches_add_up_by_pooled_token() -> None:
    """Three patches a frame, of which the last two are in one pooled token."""
    tokens = VisualTokens(torch.zeros(2, 3, 4), (1, 3), Pooling("bilinear"), (0.0, 1.0), {})
    found = of_patches(tokens, torch.tensor([0, 1, 1, 0, 0, 1]), torch.tensor([1, 0]))
    third = pytest.approx(1 / 3)
    assert entries(found) == [
        (0, 1, third), (0, 1, third), (0, 3, third), (1, 0, third), (1, 2, third), (1, 3, third),
    ]  # fmt: skip
    assert found.source_mass is not None
    assert torch.allclose(found.source_mass, torch.tensor([2 / 3, 4 / 3, 2 / 3, 4 / 3]))


# --- Of kept tokens


def test_tokens_without_sources_are_only_themselves() -> None:
    assert entries(of_kept(kept((2, 3), 2, [7, 0, 11]))) == [(0, 7, 1.0), (1, 0, 1.0), (2, 11, 1.0)]


def test_entries_are_sorted_and_each_pair_is_one_in_single_precision() -> None:
    made = made_of((1, 3, 0.25), (0, 3, 1.0), (1, 1, 0.25), (1, 3, 0.5), is_global=[True, False])
    found = of_kept(kept((2, 2), 1, [3, 1], sources=replace(made, weight=made.weight.double())))
    assert (found.token.tolist(), found.source.tolist()) == ([0, 1, 1], [3, 1, 3])
    assert (found.weight.tolist(), found.weight.dtype) == ([1.0, 0.25, 0.75], torch.float32)
    assert found.is_global is not None and found.is_global.tolist() == [True, False]


def test_chunks_are_numbered_through() -> None:
    """Two frames of 2 x 3 pooled tokens and three tokens kept, then one frame."""
    first, second = kept((2, 3), 2, [7, 0, 11]), kept((2, 3), 1, [4, 2])
    parts = [
        replace(first, sources=of_kept(first)),
        replace(second, sources=made_of((0, 4, 0.5), (0, 5, 0.5), (1, 2, 1.0))),
    ]
    found = of_chunks(parts)
    assert found is not None
    assert (found.count, found.is_global) == (5, None)
    assert entries(found) == [
        (0, 7, 1.0), (1, 0, 1.0), (2, 11, 1.0), (3, 16, 0.5), (3, 17, 0.5), (4, 14, 1.0),
    ]  # fmt: skip
    assert of_chunks([first, parts[1]]) is None


def test_anchors_of_chunks_follow_each_other() -> None:
    parts = [
        kept((1, 2), 2, [0, 3], sources=made_of((0, 0, 1.0), (1, 3, 1.0), is_global=[True, False])),
        kept((1, 2), 1, [1], sources=made_of((0, 1, 1.0), is_global=[True])),
    ]
    found = of_chunks(parts)
    assert found is not None and found.is_global is not None
    assert found.is_global.tolist() == [True, False, True]
    assert entries(found) == [(0, 0, 1.0), (1, 3, 1.0), (2, 5, 1.0)]


def test_chunks_some_of_which_are_made_of_patches() -> None:
    patches = made_of((0, 0, 0.5), (0, 1, 0.5), source_mass=[1.5, 0.5])
    parts = [kept((1, 2), 1, [0], sources=patches), kept((1, 2), 2, [3])]
    found = of_chunks([replace(part, sources=of_kept(part)) for part in parts])
    assert found is not None and found.source_mass is not None
    assert found.source_mass.tolist() == [1.5, 0.5, 1.0, 1.0, 1.0, 1.0]
