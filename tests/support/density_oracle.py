"""Compute density peaks in plain float64, for the oracles of methods that use them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.support import oracle


def peak_scores(x: oracle.Array, neighbors: int) -> list[float]:
    """Return density * separation of each row; between equal densities the lower row is denser."""
    count, width = x.shape
    d = [[float(math.dist(a, b)) / math.sqrt(width) for b in x] for a in x]
    density = [(math.exp(-sum(v * v for v in sorted(row)[:neighbors]) / neighbors), -i) for i, row in enumerate(d)]
    farthest = max(max(row) for row in d)
    return [
        density[i][0] * min((d[i][j] for j in range(count) if density[j] > density[i]), default=farthest)
        for i in range(count)
    ]


def peaks(x: oracle.Array, clusters: int, neighbors: int) -> Sequence[int]:
    """Return the rows with the highest scores in ascending order."""
    return sorted(oracle.largest(peak_scores(x, neighbors), clusters))
