"""What a straight-line program keeps, beside what a method keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aot.types import CompressedTokens
from tests.support import oracle
from tests.support.tolerances import assert_close

Kept = tuple[int, oracle.Array, float]  # index into all F * n, feature, tokens it stands for


def places(kept: CompressedTokens) -> list[int]:
    """Index of each token into all F * n."""
    rows, cols = kept.grid
    found: list[int] = ((kept.frame.long() * rows + kept.row) * cols + kept.col).tolist()
    return found


def assert_is(kept: CompressedTokens, expected: Sequence[Kept]) -> None:
    assert places(kept) == [index for index, _, _ in expected]
    assert_close(kept.features, np.array([feature for _, feature, _ in expected]), "float64")
    assert kept.mass.tolist() == [mass for _, _, mass in expected]
