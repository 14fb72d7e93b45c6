"""Compare the tokens that a method keeps with those of a straight-line program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aot.types import CompressedTokens
from tests.support import oracle
from tests.support.tolerances import assert_close

Kept = tuple[int, oracle.Array, float]  # index into all F * n, feature, mass


def cells_of(kept: CompressedTokens) -> list[int]:
    """Return the index of each token among all F * n."""
    rows, cols = kept.grid
    found: list[int] = ((kept.frame.long() * rows + kept.row) * cols + kept.col).tolist()
    return found


def assert_is(kept: CompressedTokens, expected: Sequence[Kept]) -> None:
    """Check that the kept tokens are the expected ones, in their order."""
    assert cells_of(kept) == [index for index, _, _ in expected]
    assert_close(kept.features, np.array([feature for _, feature, _ in expected]), "float64")
    assert kept.mass.tolist() == [mass for _, _, mass in expected]
