from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.budget import even_shares, spread


@given(st.integers(0, 300), st.integers(1, 40))
def test_even_shares_differ_by_one_and_keep_their_distance(total: int, parts: int) -> None:
    shares = even_shares(total, parts)
    assert sum(shares) == total
    assert len(shares) == parts
    assert max(shares) - min(shares) <= 1
    larger = [part for part, share in enumerate(shares) if share > min(shares)]
    gaps = [later - earlier for earlier, later in pairwise(larger)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_even_shares_begin_and_end_alike() -> None:
    assert even_shares(3, 12) == (0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0)
    assert even_shares(8, 3) == (3, 2, 3)
    assert even_shares(1, 5) == (0, 0, 1, 0, 0)


@given(st.lists(st.integers(0, 60), max_size=12), st.data())
def test_spread_is_the_largest_remainder(capacities: list[int], data: st.DataObject) -> None:
    room = sum(capacities)
    total = data.draw(st.integers(0, room))
    shares = spread(total, capacities)
    exact = [Fraction(total * capacity, max(room, 1)) for capacity in capacities]
    over = {i for i, share in enumerate(shares) if share > exact[i]}
    assert sum(shares) == total
    assert all(0 <= share <= capacity for share, capacity in zip(shares, capacities, strict=True))
    assert all(abs(share - ideal) < 1 for share, ideal in zip(shares, exact, strict=True))
    # Whoever was rounded up has a larger remainder than whoever was not, or an equal one and comes first.
    rank = [(-(ideal - ideal.__floor__()), i) for i, ideal in enumerate(exact)]
    rounded_down = [rank[i] for i in range(len(rank)) if i not in over and exact[i] != shares[i]]
    assert all(rank[i] < other for i in over for other in rounded_down)


@pytest.mark.parametrize(
    ("total", "capacities", "shares"),
    [
        (1, [2, 2, 2], (1, 0, 0)),
        (2, [3, 3, 3], (1, 1, 0)),
        (10, [0, 34, 33, 32], (0, 4, 3, 3)),
        (6, [1, 2, 3], (1, 2, 3)),
        (0, [4, 5], (0, 0)),
        (0, [], ()),
        (0, [0, 0], (0, 0)),
    ],
)
def test_spread_by_hand(total: int, capacities: list[int], shares: tuple[int, ...]) -> None:
    assert spread(total, capacities) == shares


@pytest.mark.parametrize(("total", "capacities"), [(4, [1, 2]), (-1, [1, 2]), (1, [])])
def test_spread_refuses_what_does_not_fit(total: int, capacities: list[int]) -> None:
    with pytest.raises(ValueError, match=f"total: expected 0 to {sum(capacities)}, got {total}"):
        spread(total, capacities)
