"""Means of groups."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aot.compression.ops.group_means import group_means
from tests.support.tolerances import assert_close


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 20))
def test_means(seed: int, groups: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.permutation([*range(groups), *rng.integers(0, groups, size=more)])
    x = rng.normal(size=(len(group), 3))
    expected = [x[group == number].mean(0) for number in range(groups)]
    assert_close(group_means(torch.from_numpy(x), torch.from_numpy(group), groups), expected, "float64")
