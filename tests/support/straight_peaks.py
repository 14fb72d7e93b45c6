"""Compute density peaks and the clusters around them, one token at a time in float64."""

from __future__ import annotations

import math

import numpy as np


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Euclidean distance."""
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine similarity."""
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def best_centers(points: list[np.ndarray], clusters: int, neighbors: int) -> list[int]:
    """Return the indices of the centers, best first."""
    count = len(points)
    d = [[distance(a, b) / math.sqrt(len(a)) for b in points] for a in points]
    density = [(math.exp(-sum(v * v for v in sorted(row)[:neighbors]) / neighbors), -i) for i, row in enumerate(d)]
    farthest = max(max(row) for row in d)
    score = []
    for i in range(count):
        denser = [d[i][j] for j in range(count) if density[j] > density[i]]
        score.append(density[i][0] * min(denser, default=farthest))
    return sorted(range(count), key=lambda i: (-score[i], i))[:clusters]


def owners(points: list[np.ndarray], centers: list[int]) -> list[int]:
    """Return for each point the index in `centers` of its center; a center belongs to itself."""
    found = []
    for i, point in enumerate(points):
        far = [distance(point, points[c]) for c in centers]
        found.append(centers.index(i) if i in centers else far.index(min(far)))
    return found


def largest_remainder(total: int, capacities: list[int]) -> list[int]:
    """Divide `total` in proportion to the capacities by largest remainder; ties: lower index."""
    room = sum(capacities)
    shares = [total * capacity // room for capacity in capacities]
    order = sorted(range(len(shares)), key=lambda i: (-(total * capacities[i] % room), i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def shared(total: int, capacities: list[int]) -> list[int]:
    """Divide `total` likewise, with at least 1 for every capacity if `total` allows."""
    if total < sum(c > 0 for c in capacities):
        return largest_remainder(total, capacities)
    shares, ones = [0] * len(capacities), 0
    left = dict(enumerate(capacities))
    while True:
        found = largest_remainder(total - ones, list(left.values()))
        poor = [k for k, share in zip(left, found, strict=True) if share == 0 and capacities[k]]
        if not poor:
            for k, share in zip(left, found, strict=True):
                shares[k] = share
            return shares
        for k in poor:
            shares[k] = 1
            del left[k]
        ones += len(poor)


def released(
    static: list[set[int]], similarity: list[dict[int, float]], lengths: list[int], per_frame: int, budget: int
) -> list[set[int]]:
    """Return each clip's static positions after releasing the least similar to reach `budget`."""
    left = [set(each) for each in static]
    order = sorted((similarity[s][i], s, i) for s, each in enumerate(static) for i in each)
    for _, s, i in order:
        remain = sum(len(each) + w * (per_frame - len(each)) for each, w in zip(left, lengths, strict=True))
        if remain >= budget:
            break
        left[s].discard(i)
    return left
