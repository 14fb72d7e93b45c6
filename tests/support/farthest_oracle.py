"""SimpleCluster's k-means as a straight-line float64 program, one comparison after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    """Of vectors of length 1, to float32: what differs by less is equal, and ties go to the lower index."""
    return float(np.float32(a @ b))


def scaled(x: Array) -> Array:
    return x / max(float(np.linalg.norm(x)), 1e-6)


def seeds(unit: list[Array], count: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        rest = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: (max(cosine(unit[i], unit[s]) for s in chosen), i)))
    return chosen


def assigned(unit: list[Array], centers: list[Array]) -> tuple[list[int], list[float]]:
    """The center of every point, and its cosine with it."""
    labels, best = [], []
    for point in unit:
        cosines = [cosine(point, center) for center in centers]
        labels.append(cosines.index(max(cosines)))
        best.append(max(cosines))
    return labels, best


def farthest_kmeans(x: Array, clusters: int, iterations: int, first: int) -> tuple[list[int], int]:
    """Label of every point, and rounds."""
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
