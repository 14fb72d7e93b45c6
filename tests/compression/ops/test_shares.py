"""Shares by hand: tokens of tokens of places."""

from __future__ import annotations

import torch

from aot.compression.ops.shares import Shares, of_patches


def told(shares: Shares) -> list[tuple[int, int, float]]:
    origin = shares.provenance()
    return list(zip(origin.token.tolist(), origin.place.tolist(), origin.share.tolist(), strict=True))


def test_places_are_tokens_of_their_own() -> None:
    assert told(Shares.of(torch.tensor([[4, 2], [0, 4]]))) == [(0, 4, 1.0), (1, 2, 1.0), (2, 0, 1.0), (3, 4, 1.0)]


def test_a_mean_of_means_weighs_means_alike() -> None:
    pair = Shares.of(torch.tensor([5, 6, 7])).merged(torch.tensor([0, 0, 1]))
    assert told(pair.merged(torch.tensor([0, 0]))) == [(0, 5, 0.25), (0, 6, 0.25), (0, 7, 0.5)]
    assert told(pair.merged(torch.tensor([0, 0]), torch.tensor([6.0, 2.0]))) == [
        (0, 5, 0.375), (0, 6, 0.375), (0, 7, 0.25),
    ]  # fmt: skip


def test_tokens_of_no_group_and_of_no_weight_are_left_out() -> None:
    some = Shares.of(torch.arange(4)).merged(torch.tensor([1, -1, 0, 1]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (some.count, told(some)) == (2, [(0, 2, 1.0), (1, 0, 1.0)])


def test_the_same_place_twice_in_a_token_is_one_share() -> None:
    assert told(Shares.of(torch.tensor([3, 3, 1, 3])).merged(torch.zeros(4, dtype=torch.long))) == [
        (0, 1, 0.25), (0, 3, 0.75),
    ]  # fmt: skip


def test_a_blend_of_own_and_others() -> None:
    """The second token has no others."""
    own, others = Shares.of(torch.tensor([0, 1])), Shares.of(torch.tensor([2, 3])).merged(torch.tensor([0, 0]))
    assert told(own.blended(others, 0.5)) == [(0, 0, 0.5), (0, 2, 0.25), (0, 3, 0.25), (1, 1, 1.0)]
    assert told(own.blended(others, torch.tensor([0.0, 0.0]))) == [(0, 2, 0.5), (0, 3, 0.5), (1, 1, 1.0)]


def test_chosen_tokens_come_in_their_order() -> None:
    assert told(Shares.of(torch.tensor([9, 8, 7])).chosen(torch.tensor([2, 0]))) == [(0, 7, 1.0), (1, 9, 1.0)]


def test_parts_are_numbered_through_even_where_one_is_empty() -> None:
    nothing = Shares.of(torch.tensor([], dtype=torch.long))
    parts = [
        Shares.of(torch.tensor([1, 2])),
        nothing.merged(torch.tensor([], dtype=torch.long)),
        Shares.of(torch.tensor([0])),
    ]
    assert told(Shares.joined(parts)) == [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)]


def test_weights_of_frames_in_a_row_whatever_their_factor() -> None:
    weights = torch.tensor([[[2.0, 2.0, 0.0]], [[0.0, 0.1, 0.3]]])
    assert told(Shares.of_frames(weights.double(), first=4)) == [
        (0, 12, 0.5),
        (0, 13, 0.5),
        (1, 16, 0.25),
        (1, 17, 0.75),
    ]


def test_patches_add_up_by_pooled_token() -> None:
    """Three patches a frame, of which the first two are in one pooled token."""
    cells = torch.tensor([[0, 0, 1], [2, 2, 3]])
    said = of_patches(cells, 4, torch.tensor([1, 1, 0, 1, 0, 0]), torch.tensor([1, 0]))
    assert list(zip(said.token.tolist(), said.place.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert torch.allclose(said.share, torch.tensor([2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3]))
    assert said.whole is not None
    assert torch.allclose(said.whole, torch.tensor([[4 / 3, 2 / 3], [4 / 3, 2 / 3]]))
