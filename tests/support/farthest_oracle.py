"""Compute SimpleCluster's k-means as a straight-line float64 program."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of unit vectors, rounded to float32 so that nearly equal ones are ties."""
    return float(np.float32(a @ b))


def scaled(x: Array) -> Array:
    """Return a vector scaled to length 1."""
    return x / max(float(np.linalg.norm(x)), 1e-6)


def seeds(unit: list[Array], count: int, first: int) -> list[int]:
    """Return seeds, each the point least similar to the nearest earlier one; ties: lower index."""
    chosen = [first]
    while len(chosen) < count:
        rest = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: (max(cosine(unit[i], unit[s]) for s in chosen), i)))
    return chosen


def assigned(unit: list[Array], centers: list[Array]) -> tuple[list[int], list[float]]:
    """Return the most similar center of every point, and the cosine."""
    labels, best = [], []
    for point in unit:
        cosines = [cosine(point, center) for center in centers]
        labels.append(cosines.index(max(cosines)))
        best.append(max(cosines))
    return labels, best


def farthest_kmeans(x: Array, clusters: int, iterations: int, first: int) -> tuple[list[int], int]:
    """Return the label of every point and the number of iterations."""
    unit = [scaled(row) for row in x]
    centers = [unit[i] for i in seeds(unit, clusters, first)]
    passed = 0
    for _ in range(iterations):
        passed += 1
        labels, best = assigned(unit, centers)
        moved = []
        for k in range(clusters):
            members = [unit[i] for i in range(len(unit)) if labels[i] == k]
            if members:
                moved.append(scaled(np.mean(members, axis=0)))
            else:
                worst = best.index(min(best))
                moved.append(unit[worst])
                best[worst] = np.inf
        change = max(float(np.abs(a - b).max()) for a, b in zip(moved, centers, strict=True))
        centers = moved
        if change <= 1e-6:
            break
    labels, best = assigned(unit, centers)
    for k in range(clusters):
        if k not in labels:
            sizes = [labels.count(other) for other in range(clusters)]
            largest = sizes.index(max(sizes))
            worst = min((i for i in range(len(unit)) if labels[i] == largest), key=lambda i: best[i])
            labels[worst], best[worst] = k, 1.0
    return labels, passed
